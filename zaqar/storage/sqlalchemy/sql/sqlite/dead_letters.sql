-- name: first_free
-- The first free messages before :end_of_queue: those that are moved to the end of the same queue are not met again.
SELECT m.id, m.sequence, m.claim_count, m.created, m.expires FROM messages AS m
WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
    AND m.sequence < :end_of_queue
ORDER BY m.sequence
LIMIT :limit

-- name: set_aside
INSERT INTO set_aside (
    segment, sequence, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body
)
SELECT segment, sequence, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body
FROM messages
WHERE id IN (SELECT value FROM json_each(:ids))

-- name: forget_set_aside
DELETE FROM set_aside WHERE segment = :segment AND sequence IN (SELECT value FROM json_each(:sequences))

-- name: known_letters
-- Those that the queue has, or had.
SELECT message_id FROM received WHERE uid = :uid AND message_id IN (SELECT value FROM json_each(:letters))
