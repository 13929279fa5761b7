-- The end of a claim is the column "due" of its messages, always. So the messages of a claim that ended are free
-- without any change, and a claim finds its messages through the index (segment, due, claim_id) of rows that are not
-- READY.

-- name: insert_claim
INSERT INTO claims (segment, claim_id, ttl, grace, started, expires)
VALUES (:segment, :claim, :ttl, :grace, :started, :end)

-- name: get_claim_row
SELECT ttl, grace, started FROM claims WHERE segment = :segment AND claim_id = :claim AND expires > :now

-- name: update_claim
UPDATE claims SET ttl = :new_ttl, grace = :new_grace, started = :started, expires = :end
WHERE segment = :segment AND claim_id = :claim

-- name: renew_messages
-- Move the end of the claim in its messages; :held_until is the end so far.
UPDATE messages SET due = :end, expires = :LEASED_UNTIL
WHERE segment = :segment AND state != :READY AND due = :held_until AND claim_id = :claim

-- name: delete_claim
DELETE FROM claims WHERE segment = :segment AND claim_id = :claim RETURNING expires

-- name: release_messages
UPDATE messages SET state = :READY, due = NULL, claim_id = NULL
WHERE segment = :segment AND state != :READY AND due = :held_until AND claim_id = :claim
RETURNING sequence

-- piece: LEASED_UNTIL
-- The new end of life of a message that a claim takes or holds on to: a claim never moves it closer.
CASE WHEN expires < :life THEN :life ELSE expires END
