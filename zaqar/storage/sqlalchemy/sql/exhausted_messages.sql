-- Messages that were claimed as often as their queue allows, on their way to the end of a dead letter queue of the same
-- store. A row keeps its place in the table and gets another segment and number.

-- name: move_message
-- To the end of the dead letter queue of the same store.
UPDATE messages
SET segment = :new_segment, sequence = :new_sequence, created = :new_created, expires = :new_expires, claim_count = 0,
    origin_queue = :from_queue, origin_id = :from_id, origin_claim_count = claim_count
WHERE id = :message

-- name: moved_messages
-- The messages that this transaction just moved, for the notes to their subscribers. No other message has a number from
-- this range.
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :READY AND sequence >= :first AND sequence < :end AND expires + 0 > :now
ORDER BY sequence
