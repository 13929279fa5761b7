-- Transactions that write run alone on SQLite (BEGIN IMMEDIATE), so nothing has to be locked.

-- name: check_fence
-- The segment of the queue. No row: the caller's copy of the queue is stale.
SELECT segment FROM fences WHERE uid = :uid AND generation = :generation AND forget_at IS NULL

-- name: read_fence
:FENCE

-- name: find_fence
SELECT generation, segment, forget_at FROM fences WHERE uid = :uid

-- name: due_batch
-- Claimed and delayed messages whose claim or delay has ended.
SELECT id, sequence, state, expires <= :now FROM messages
WHERE segment = :segment AND state != :READY AND due <= :now
ORDER BY due
LIMIT :limit

-- name: make_ready
UPDATE messages SET state = :READY, due = NULL, claim_id = NULL WHERE id IN (SELECT value FROM json_each(:ids))

-- name: delete_by_id
DELETE FROM messages WHERE id IN (SELECT value FROM json_each(:ids))

-- name: delete_expired
DELETE FROM messages
WHERE id IN (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :segment AND m.expires <= :now
    ORDER BY m.expires
    LIMIT :limit
)
RETURNING state

-- name: remove_messages_of_garbage
DELETE FROM messages WHERE id IN (SELECT m.id FROM messages AS m WHERE m.segment = :segment LIMIT :limit)

-- name: remove_claims_of_garbage
DELETE FROM claims
WHERE segment = :segment
    AND claim_id IN (SELECT c.claim_id FROM claims AS c WHERE c.segment = :segment LIMIT :limit)

-- name: remove_set_aside_of_garbage
DELETE FROM set_aside
WHERE segment = :segment
    AND sequence IN (SELECT a.sequence FROM set_aside AS a WHERE a.segment = :segment LIMIT :limit)

-- name: dropped_among
-- Which of these subscriptions, or with '' of the whole queue, have a tombstone.
SELECT subscription FROM dropped WHERE uid = :uid AND subscription IN (SELECT value FROM json_each(:subscriptions))
