-- Dead letters on their way to another store are in the table set_aside, so that no timer, count or listing meets them.
-- The other store remembers which it has received, so that each can be sent again after a crash.

-- name: list_set_aside
-- The columns of a message, without a claim and a delay.
SELECT sequence, body, created, expires, client_id, NULL, claim_count, checksum,
    origin_queue, origin_id, origin_claim_count, NULL, trace
FROM set_aside
WHERE segment = :segment
ORDER BY sequence
LIMIT :limit

-- name: insert_received
INSERT INTO messages (
    segment, sequence, state, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body, trace
) VALUES (
    :segment, :sequence, :READY, :expires, :created, 0, :client_id, :checksum,
    :from_queue, :letter, :from_claim_count, :body, :trace
)

-- name: remember_received
INSERT INTO received (uid, message_id, forget_at) VALUES (:uid, :letter, :forget_at)
