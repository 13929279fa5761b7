-- Transactions run beside each other on PostgreSQL. A transaction that writes locks the fence first and the messages
-- after it. FOR NO KEY UPDATE is the lock that an UPDATE takes; a row that changed while the statement waited for its
-- lock is looked at once more.
-- "id = ANY (ARRAY (SELECT ...))" finds the rows once, before the rest of the statement; IN (SELECT ...) might be
-- evaluated row by row.

-- name: check_fence
-- The segment of the queue, and a lock on the fence. No row: the caller's copy of the queue is stale.
SELECT segment FROM fences WHERE uid = :uid AND generation = :generation AND forget_at IS NULL
FOR NO KEY UPDATE

-- name: read_fence
:FENCE
FOR NO KEY UPDATE

-- name: find_fence
SELECT generation, segment, forget_at FROM fences WHERE uid = :uid
FOR NO KEY UPDATE

-- name: due_batch
-- Claimed and delayed messages whose claim or delay has ended.
SELECT id, sequence, state, expires <= :now FROM messages
WHERE segment = :segment AND state != :READY AND due <= :now
ORDER BY due
LIMIT :limit
FOR NO KEY UPDATE

-- name: make_ready
UPDATE messages SET state = :READY, due = NULL, claim_id = NULL
WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[]))

-- name: delete_by_id
DELETE FROM messages WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[]))

-- name: delete_expired
DELETE FROM messages
WHERE id = ANY (ARRAY (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :segment AND m.expires <= :now
    ORDER BY m.expires
    LIMIT :limit
    FOR NO KEY UPDATE
))
RETURNING state

-- name: remove_messages_of_garbage
DELETE FROM messages
WHERE id = ANY (ARRAY (SELECT m.id FROM messages AS m WHERE m.segment = :segment LIMIT :limit))

-- name: remove_claims_of_garbage
DELETE FROM claims
WHERE segment = :segment
    AND claim_id = ANY (ARRAY (SELECT c.claim_id FROM claims AS c WHERE c.segment = :segment LIMIT :limit))

-- name: remove_set_aside_of_garbage
DELETE FROM set_aside
WHERE segment = :segment
    AND sequence = ANY (ARRAY (SELECT a.sequence FROM set_aside AS a WHERE a.segment = :segment LIMIT :limit))

-- name: remove_tallies_of_garbage
DELETE FROM tallies WHERE segment = :segment

-- name: wake_waiting
-- Wake the processes that wait for the queue. A commit that notifies waits for all others of the server that notify, so
-- this one does not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify(:WAKEUP_CHANNEL, :uid)

-- name: dropped_among
-- Which of these subscriptions, or with '' of the whole queue, have a tombstone.
SELECT subscription FROM dropped
WHERE uid = :uid AND subscription = ANY (ARRAY (SELECT json_array_elements_text(CAST(:subscriptions AS json))))
