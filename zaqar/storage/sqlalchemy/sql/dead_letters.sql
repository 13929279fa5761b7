-- Messages that were claimed too often. Within one store they move to the end of the dead letter queue. On their way to
-- another store they are in the table set_aside, so that no timer, count or listing meets them.

-- name: move_message
-- To the end of the dead letter queue of the same store.
UPDATE messages
SET segment = :new_segment, sequence = :new_sequence, created = :new_created, expires = :new_expires, claim_count = 0,
    origin_queue = :from_queue, origin_id = :from_id, origin_claim_count = claim_count
WHERE id = :message

-- name: moved_messages
-- Those that this transaction just moved, for the notes to their subscribers. Nobody else has numbers from this range.
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :READY AND sequence >= :first AND sequence < :end AND expires + 0 > :now
ORDER BY sequence

-- name: list_set_aside
-- The columns of a message, without a claim and a delay.
SELECT sequence, body, created, expires, client_id, NULL, claim_count, checksum,
    origin_queue, origin_id, origin_claim_count, NULL
FROM set_aside
WHERE segment = :segment
ORDER BY sequence
LIMIT :limit

-- name: insert_received
INSERT INTO messages (
    segment, sequence, state, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body
) VALUES (
    :segment, :sequence, :READY, :expires, :created, 0, :client_id, :checksum,
    :from_queue, :letter, :from_claim_count, :body
)

-- name: remember_received
INSERT INTO received (uid, message_id, forget_at) VALUES (:uid, :letter, :forget_at)
