-- Dead rows. A statement finds some, another one removes them in a short transaction, and repeats the condition if they
-- may have changed in between.

-- name: ping
SELECT 1 FROM fences LIMIT 1

-- name: segments_with_expired
-- Queues with expired messages, from one on.
SELECT uid, segment FROM fences
WHERE segment > :after AND EXISTS (
    SELECT 1 FROM messages AS m WHERE m.segment = fences.segment AND m.expires <= :now
)
ORDER BY segment
LIMIT :limit

-- name: first_garbage
SELECT segment FROM garbage ORDER BY segment LIMIT 1

-- name: ended_claims
SELECT segment, claim_id FROM claims WHERE expires <= :now LIMIT :limit

-- name: remove_ended_claim
DELETE FROM claims WHERE segment = :segment AND claim_id = :claim AND expires <= :now

-- name: old_tombstones
SELECT uid FROM fences WHERE forget_at <= :now LIMIT :limit

-- name: remove_old_tombstone
DELETE FROM fences WHERE uid = :uid AND forget_at <= :now

-- name: old_received
-- Dead letters of another store that cannot come again.
SELECT uid, message_id FROM received WHERE forget_at <= :now LIMIT :limit

-- name: remove_old_received
DELETE FROM received WHERE uid = :uid AND message_id = :letter AND forget_at <= :now

-- name: old_deliveries
-- Settled deliveries that the log has kept for long enough.
SELECT id FROM deliveries WHERE keep_until <= :now ORDER BY keep_until LIMIT :limit

-- name: dropped_to_sweep
-- Tombstones that may hide posts or deliveries.
SELECT uid, subscription, forget_at FROM dropped WHERE sweep_at <= :now ORDER BY sweep_at LIMIT :limit

-- name: look_again
-- Nothing is hidden any more. Look once more at the end of the tombstone, unless it was made anew since it was found.
UPDATE dropped SET sweep_at = forget_at
WHERE uid = :uid AND subscription = :subscription AND forget_at = :forget_at

-- name: remove_dropped
DELETE FROM dropped WHERE uid = :uid AND subscription = :subscription AND forget_at = :forget_at

-- Rows are locked in the order in which expansion and settling lock them.

-- piece: POSTS_OF_QUEUE
SELECT p.first FROM outbox AS p WHERE p.uid = :uid ORDER BY p.first LIMIT :limit

-- piece: DELIVERIES_OF_QUEUE
SELECT d.id FROM deliveries AS d WHERE d.uid = :uid ORDER BY d.subscription, d.number LIMIT :limit

-- piece: DELIVERIES_OF_SUBSCRIPTION
SELECT d.id FROM deliveries AS d
WHERE d.uid = :uid AND d.subscription = :subscription
ORDER BY d.number
LIMIT :limit
