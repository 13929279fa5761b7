-- name: first_free
-- The first free messages before :end_of_queue: messages moved to the end of the same queue are not
-- found again.
-- In a transaction that has locked the fence.
SELECT m.id, m.sequence, m.claim_count, m.created, m.expires FROM messages AS m
WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
    AND m.sequence < :end_of_queue
ORDER BY m.sequence
LIMIT :limit
FOR NO KEY UPDATE
