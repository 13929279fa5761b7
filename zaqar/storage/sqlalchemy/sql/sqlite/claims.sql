-- piece: LEASE
UPDATE messages
SET state = :CLAIMED, due = :end, claim_id = :new_claim_id, claim_count = claim_count + 1, expires = :LEASED_UNTIL

-- name: claim_first
-- Lease the first free messages. They are found in the index alone. RETURNING yields rows in no defined order.
:LEASE
WHERE id IN (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
    ORDER BY m.sequence
    LIMIT :limit
)
RETURNING :MESSAGE_COLUMNS

-- name: claim_first_not_exhausted
-- The same, passing over messages that were claimed too often, for which their rows have to be read.
:LEASE
WHERE id IN (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
        AND m.claim_count < :max_claim_count
    ORDER BY m.sequence
    LIMIT :limit
)
RETURNING :MESSAGE_COLUMNS

-- name: claim_by_id
:LEASE
WHERE id IN (SELECT value FROM json_each(:ids))
RETURNING :MESSAGE_COLUMNS

-- name: messages_of_claim
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state != :READY AND due = :held_until AND claim_id = :claim AND expires + 0 > :now
