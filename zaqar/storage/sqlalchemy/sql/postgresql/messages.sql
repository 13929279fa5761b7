-- A message is found by its number state by state, through the index of the order (segment, state, sequence, expires).
-- Whether the planner uses the index for "state IN (...)", or scans the whole queue, would depend on statistics. The
-- segment is compared once more ("segment + 0", which is hidden from the planner), as the row may have been moved to
-- another queue while the statement waited for its lock.
-- "expires + 0" keeps the planner from the index by the end of life: nearly all messages are alive.

-- name: post
-- Take numbers, count the messages, and store them. The lock on the fence lasts until the commit, so posts commit in
-- the order of their numbers. No row: the caller's copy of the queue is stale, and nothing is stored.
WITH fence AS (:TAKE_NUMBERS),
stored AS (:STORE_DRAFTS)
SELECT segment, next_sequence FROM fence

-- name: post_and_note
-- The same for a queue with subscribers: the note that deliveries have to be made is stored in the same step.
WITH fence AS (:TAKE_NUMBERS),
stored AS (:STORE_DRAFTS),
noted AS (
    INSERT INTO outbox (uid, first, due, content)
    SELECT CAST(:uid AS text), next_sequence - :count, CAST(:now AS double precision), CAST(:content AS bytea)
    FROM fence
)
SELECT segment, next_sequence FROM fence

-- piece: TAKE_NUMBERS
UPDATE fences
SET next_sequence = next_sequence + :count, ready = ready + :more_ready, delayed = delayed + :more_delayed
WHERE uid = :uid AND generation = :generation AND forget_at IS NULL
RETURNING segment, next_sequence

-- piece: STORE_DRAFTS
-- :each_trace is null, which stands for an array of nulls, if no draft has a trace.
INSERT INTO messages (segment, sequence, state, due, expires, created, claim_count, client_id, checksum, body, trace)
SELECT
    fence.segment, fence.next_sequence - :count + draft.place - 1, draft.state, draft.due, draft.expires,
    CAST(:now AS double precision), 0, CAST(:client_id AS text), draft.checksum, draft.body, draft.trace
FROM fence JOIN unnest(
    CAST(:each_state AS smallint[]),
    CAST(:each_due AS double precision[]),
    CAST(:each_expires AS double precision[]),
    CAST(:each_checksum AS text[]),
    CAST(:each_body AS bytea[]),
    CAST(:each_trace AS text[])
) WITH ORDINALITY AS draft(state, due, expires, checksum, body, trace, place) ON true

-- name: list_ready
-- A page of free messages. The first columns are the fence, so that no row means a stale queue.
-- IS DISTINCT FROM is true of every client if there is none to leave out.
WITH fence AS (:FENCE)
SELECT fence.*, page.*
FROM fence LEFT JOIN (
    SELECT :MESSAGE_COLUMNS FROM messages
    WHERE segment = :SEGMENT AND state = :READY AND sequence > greatest(:after, :READY_FROM - 1)
        AND expires + 0 > :now AND client_id IS DISTINCT FROM :exclude_client
    ORDER BY sequence
    LIMIT :limit
) AS page ON true

-- name: list_all
-- A page of free, claimed and delayed messages: one search of the index for each state, each ended at the limit. A
-- state that is not asked for begins after the last possible number.
WITH fence AS (:FENCE)
SELECT fence.*, page.*
FROM fence LEFT JOIN (
    SELECT * FROM (
        SELECT :MESSAGE_COLUMNS FROM messages
        WHERE segment = :SEGMENT AND state = :READY AND sequence > greatest(:after, :READY_FROM - 1)
            AND expires + 0 > :now AND client_id IS DISTINCT FROM :exclude_client
        ORDER BY sequence
        LIMIT :limit
    ) AS free
    UNION ALL
    SELECT * FROM (
        SELECT :MESSAGE_COLUMNS FROM messages
        WHERE segment = :SEGMENT AND state = :CLAIMED AND sequence > :after_claimed
            AND expires + 0 > :now AND client_id IS DISTINCT FROM :exclude_client
        ORDER BY sequence
        LIMIT :limit
    ) AS claimed
    UNION ALL
    SELECT * FROM (
        SELECT :MESSAGE_COLUMNS FROM messages
        WHERE segment = :SEGMENT AND state = :DELAYED AND sequence > :after_delayed
            AND expires + 0 > :now AND client_id IS DISTINCT FROM :exclude_client
        ORDER BY sequence
        LIMIT :limit
    ) AS delayed
    ORDER BY sequence
    LIMIT :limit
) AS page ON true

-- piece: IDS_OF_NUMBERS
ARRAY (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :SEGMENT AND m.state = :READY
        AND m.sequence = ANY (CAST(translate(:sequences, '[]', '{}') AS bigint[]))
    UNION ALL
    SELECT m.id FROM messages AS m
    WHERE m.segment = :SEGMENT AND m.state = :CLAIMED
        AND m.sequence = ANY (CAST(translate(:sequences, '[]', '{}') AS bigint[]))
    UNION ALL
    SELECT m.id FROM messages AS m
    WHERE m.segment = :SEGMENT AND m.state = :DELAYED
        AND m.sequence = ANY (CAST(translate(:sequences, '[]', '{}') AS bigint[]))
)

-- name: get_messages
WITH fence AS (:FENCE)
SELECT fence.*, found.*
FROM fence LEFT JOIN (
    SELECT :MESSAGE_COLUMNS FROM messages
    WHERE id = ANY (:IDS_OF_NUMBERS) AND segment + 0 = :SEGMENT AND expires + 0 > :now
) AS found ON true

-- name: examine
-- The row of a message, its state, and the live claim that holds it. In a transaction that has locked the fence.
SELECT id, state, CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END AS holder FROM messages
WHERE id = ANY (ARRAY (
        SELECT m.id FROM messages AS m WHERE m.segment = :segment AND m.state = :READY AND m.sequence = :sequence
        UNION ALL
        SELECT m.id FROM messages AS m WHERE m.segment = :segment AND m.state = :CLAIMED AND m.sequence = :sequence
        UNION ALL
        SELECT m.id FROM messages AS m WHERE m.segment = :segment AND m.state = :DELAYED AND m.sequence = :sequence
    ))
    AND segment + 0 = :segment AND expires + 0 > :now
FOR NO KEY UPDATE

-- name: delete_held
-- Delete a message that the claim holds. The conditions on the claim and on the times are hidden from the planner
-- ("|| ''", "+ 0"): the index that begins with them would be a bad one here.
WITH fence AS (:FENCE),
gone AS (
    DELETE FROM messages
    WHERE segment = :SEGMENT AND state = :CLAIMED AND sequence = :sequence
        AND claim_id || '' = :claim_id AND due + 0 > :now AND expires + 0 > :now
    RETURNING state
),
tally AS (:TALLY_DELETED)
SELECT fence.segment, EXISTS (SELECT 1 FROM gone) FROM fence

-- name: delete_unclaimed
WITH fence AS (:FENCE),
gone AS (
    DELETE FROM messages
    WHERE id = ANY (ARRAY (
            SELECT m.id FROM messages AS m WHERE m.segment = :SEGMENT AND m.state = :READY AND m.sequence = :sequence
            UNION ALL
            SELECT m.id FROM messages AS m WHERE m.segment = :SEGMENT AND m.state = :CLAIMED AND m.sequence = :sequence
            UNION ALL
            SELECT m.id FROM messages AS m WHERE m.segment = :SEGMENT AND m.state = :DELAYED AND m.sequence = :sequence
        ))
        AND segment + 0 = :SEGMENT AND expires + 0 > :now
        AND CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END IS NULL
    RETURNING state
),
tally AS (:TALLY_DELETED)
SELECT fence.segment, EXISTS (SELECT 1 FROM gone) FROM fence

-- name: delete_many
-- Delete all, or none if a live claim of those given does not hold one of them (claim_ids is null: claims do not
-- matter). All transactions lock rows in the order of their numbers, so two never wait for each other.
WITH fence AS (:FENCE),
found AS (
    SELECT id, state, CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END AS holder FROM messages
    WHERE id = ANY (:IDS_OF_NUMBERS) AND segment + 0 = :SEGMENT AND expires + 0 > :now
    ORDER BY sequence
    FOR NO KEY UPDATE
),
gone AS (
    DELETE FROM messages
    WHERE id = ANY (ARRAY (SELECT found.id FROM found)) AND NOT EXISTS (:REFUSED)
    RETURNING state
),
tally AS (:TALLY_DELETED)
SELECT fence.segment, EXISTS (:REFUSED) FROM fence

-- piece: REFUSED
SELECT 1 FROM found
WHERE CAST(:claim_ids AS text[]) IS NOT NULL
    AND NOT coalesce(found.holder = ANY (CAST(:claim_ids AS text[])), false)

-- name: pop
-- Delete the first free messages, or none if one of them is sealed. Messages that others have locked are passed over.
-- The columns: the fence, whether one is sealed, whether others have all free messages locked, the messages.
WITH fence AS (:FENCE),
first AS (:FIRST_TO_POP FOR NO KEY UPDATE SKIP LOCKED),
:POP_FIRST

-- name: pop_waiting
-- The same, but wait for messages that others have locked.
WITH fence AS (:FENCE),
first AS (:FIRST_TO_POP FOR NO KEY UPDATE),
:POP_FIRST

-- piece: FIRST_TO_POP
SELECT m.id, substr(m.body, 1, 1) = decode(:SEALED, 'hex') AS sealed
:FIRST_FREE
ORDER BY m.sequence
LIMIT :limit

-- piece: POP_FIRST
taken AS (
    DELETE FROM messages
    WHERE id = ANY (ARRAY (SELECT first.id FROM first)) AND NOT EXISTS (SELECT 1 FROM first WHERE first.sealed)
    RETURNING :MESSAGE_COLUMNS
),
tally AS (
    INSERT INTO tallies (segment, slot, ready, claimed, delayed)
    SELECT :SEGMENT, pg_backend_pid() % :TALLY_ROWS, -count(*), 0, 0
    FROM taken
    HAVING count(*) > 0
    :ADD_TO_TALLY
)
SELECT fence.*, EXISTS (SELECT 1 FROM first WHERE first.sealed), :OTHERS_HOLD_FREE, taken.*
FROM fence LEFT JOIN taken ON true

-- piece: TALLY_DELETED
-- Subtract what the statement deleted, by its state.
INSERT INTO tallies (segment, slot, ready, claimed, delayed)
SELECT
    :SEGMENT,
    pg_backend_pid() % :TALLY_ROWS,
    -count(CASE WHEN gone.state = :READY THEN 1 END),
    -count(CASE WHEN gone.state = :CLAIMED THEN 1 END),
    -count(CASE WHEN gone.state = :DELAYED THEN 1 END)
FROM gone
HAVING count(*) > 0
:ADD_TO_TALLY
