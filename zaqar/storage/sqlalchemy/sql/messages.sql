-- name: delete_claimed
-- Delete a live message that the claim holds: the usual end of a message, found by the index of the order.
DELETE FROM messages
WHERE segment = :segment AND state = :CLAIMED AND sequence = :sequence
    AND claim_id = :claim_id AND due > :now AND expires + 0 > :now

-- name: delete_row
DELETE FROM messages WHERE id = :id

-- name: is_live_claim
SELECT claim_id FROM claims WHERE segment = :segment AND claim_id = :claim AND expires > :now
