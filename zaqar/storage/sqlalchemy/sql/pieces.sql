-- Pieces of SQL that several statements contain. Both databases share them.

-- piece: MESSAGE_COLUMNS
-- A message as message_rows.py reads it, in this order. The claim and the delay are shown only while they last.
sequence, body, created, expires, client_id,
CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END AS live_claim_id,
claim_count, checksum, origin_queue, origin_id, origin_claim_count,
CASE WHEN state = :DELAYED AND due > :now THEN due END AS delayed_until,
trace

-- piece: DELIVERY_COLUMNS
-- A delivery in the order of the fields of model.Delivery.
uid, subscription, number, body, ttl, created, client_id, due, kind, owner, state, tries, attempts, keep_until,
trace, request_id

-- piece: FENCE
-- The fence of a queue if the caller's copy of the queue is not stale, and whether a claim or a delay has ended (due).
SELECT segment, next_sequence, ready_from,
    EXISTS (
        SELECT 1 FROM messages AS m WHERE m.segment = fences.segment AND m.state != :READY AND m.due <= :now
    ) AS due
FROM fences
WHERE uid = :uid AND generation = :generation AND forget_at IS NULL

-- Statistics are the counters of the fence, corrected by what time did since they were written. A message is due if its
-- claim or delay has ended. The end of life of a claimed message is never before the end of its claim. So a message
-- that has expired is READY (subtract it), or due (added as free, so subtract it too), or DELAYED for longer than it
-- lives (never counted as free, but subtracted, so add it back).
-- "m.state + 0" keeps the planner from the index by state: the rows are found by their time, and are few.

-- piece: COUNT_DUE
(SELECT count(*) FROM messages AS m WHERE m.segment = fences.segment AND m.state != :READY AND m.due <= :now)

-- piece: COUNT_DUE_CLAIMED
(
    SELECT count(*) FROM messages AS m
    WHERE m.segment = fences.segment AND m.state != :READY AND m.due <= :now AND m.state + 0 = :CLAIMED
)

-- piece: FIRST_EXPIRED
(
    SELECT m.due, m.state FROM messages AS m
    WHERE m.segment = fences.segment AND m.expires <= :now
    LIMIT :MORE_THAN_MOST_EXPIRED
)

-- piece: QUICK_COUNTS
-- Free and claimed messages of a fence. Free is null if more than MOST_EXPIRED have expired, which are not all counted.
:READY_COUNTER + :COUNT_DUE
    - (SELECT nullif(count(*), :MORE_THAN_MOST_EXPIRED) FROM :FIRST_EXPIRED AS expired)
    + CASE WHEN :DELAYED_COUNTER = 0 THEN 0 ELSE (
        SELECT count(*) FROM :FIRST_EXPIRED AS expired WHERE expired.due > :now AND expired.state = :DELAYED
    ) END AS free,
:CLAIMED_COUNTER - :COUNT_DUE_CLAIMED AS claimed

-- piece: FULL_COUNTS
-- The same, however many have expired.
:READY_COUNTER + :COUNT_DUE
    - (SELECT count(*) FROM messages AS m WHERE m.segment = fences.segment AND m.expires <= :now)
    + CASE WHEN :DELAYED_COUNTER = 0 THEN 0 ELSE (
        SELECT count(*) FROM messages AS m
        WHERE m.segment = fences.segment AND m.expires <= :now AND m.due > :now AND m.state + 0 = :DELAYED
    ) END AS free,
:CLAIMED_COUNTER - :COUNT_DUE_CLAIMED AS claimed

-- piece: NEW_DELIVERY
:new_uid, :new_subscription, :new_number, :new_body, :new_ttl, :new_created, :new_client_id, :new_due, :new_kind,
:new_owner, :new_state, :new_tries, :new_attempts, :new_keep_until, :new_trace, :new_request_id
