-- piece: LEASE
UPDATE messages
SET state = :CLAIMED, due = :end, claim_id = :new_claim_id, claim_count = claim_count + 1, expires = :LEASED_UNTIL

-- name: claim
-- Lease the first free messages, store the claim and count, all in one statement. Messages that others have locked are
-- passed over, so claims do not wait for each other.
-- The columns: the fence, whether one of the first free messages is exhausted (then none is leased), whether others
-- have all free messages locked, the messages.
WITH fence AS (:FENCE),
first AS (:FIRST_TO_CLAIM FOR NO KEY UPDATE SKIP LOCKED),
:LEASE_FIRST

-- name: claim_waiting
-- The same, but wait for messages that others have locked.
WITH fence AS (:FENCE),
first AS (:FIRST_TO_CLAIM FOR NO KEY UPDATE),
:LEASE_FIRST

-- piece: FIRST_TO_CLAIM
-- :passed_over_from is the claim count from which on messages are passed over.
SELECT m.id, m.claim_count
:FIRST_FREE
    AND m.claim_count < :passed_over_from
ORDER BY m.sequence
LIMIT :limit

-- piece: LEASE_FIRST
-- :exhausted_from is the claim count from which on a message must be moved to the dead letter queue first.
taken AS (
    :LEASE
    WHERE id = ANY (ARRAY (SELECT first.id FROM first)) AND NOT EXISTS (:EXHAUSTED)
    RETURNING :MESSAGE_COLUMNS
),
leased AS (
    INSERT INTO claims (segment, claim_id, ttl, grace, started, expires)
    SELECT :SEGMENT, :new_claim_id, :ttl, :grace, :now, :end
    WHERE EXISTS (SELECT 1 FROM taken)
),
tally AS (
    INSERT INTO tallies (segment, slot, ready, claimed, delayed)
    SELECT :SEGMENT, pg_backend_pid() % :TALLY_ROWS, -count(*), count(*), 0
    FROM taken
    HAVING count(*) > 0
    :ADD_TO_TALLY
)
SELECT fence.*, EXISTS (:EXHAUSTED), :OTHERS_HOLD_FREE, taken.*
FROM fence LEFT JOIN taken ON true

-- piece: EXHAUSTED
SELECT 1 FROM first WHERE first.claim_count >= :exhausted_from

-- name: claim_by_id
:LEASE
WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[]))
RETURNING :MESSAGE_COLUMNS

-- name: get_claim
-- The columns: the fence, the claim (null if there is no such claim), the messages that it holds.
WITH fence AS (:FENCE)
SELECT fence.*, claim.ttl, claim.grace, claim.started, held.*
FROM fence
LEFT JOIN LATERAL (
    SELECT ttl, grace, started, expires AS held_until FROM claims
    WHERE segment = fence.segment AND claim_id = :claim AND expires > :now
) AS claim ON true
LEFT JOIN LATERAL (
    SELECT :MESSAGE_COLUMNS FROM messages
    WHERE segment = fence.segment AND state != :READY AND due = claim.held_until AND claim_id = :claim
        AND expires + 0 > :now
) AS held ON true
