-- Pieces that differ between the databases, as PostgreSQL has them, and those that only PostgreSQL needs.

-- Claims and deletes do not lock the fence. They add to the tallies instead of to its counters.

-- piece: READY_COUNTER
(ready + coalesce((SELECT CAST(sum(t.ready) AS bigint) FROM tallies AS t WHERE t.segment = fences.segment), 0))

-- piece: CLAIMED_COUNTER
(claimed + coalesce((SELECT CAST(sum(t.claimed) AS bigint) FROM tallies AS t WHERE t.segment = fences.segment), 0))

-- piece: DELAYED_COUNTER
(delayed + coalesce((SELECT CAST(sum(t.delayed) AS bigint) FROM tallies AS t WHERE t.segment = fences.segment), 0))

-- piece: BYTES
bytea

-- Most operations are one statement, which is a transaction by itself: one round trip. Each begins with the fence:
--     WITH fence AS (:FENCE)
-- No row of the fence means that the caller's copy of the queue is stale; then the rest of the statement finds nothing,
-- because it compares the segment with null. Only a post locks the fence. docs/decisions/0008 says why that is enough.

-- piece: SEGMENT
(SELECT fence.segment FROM fence)

-- piece: READY_FROM
(SELECT fence.ready_from FROM fence)

-- piece: FIRST_FREE
-- The condition and the order of the first free messages. None is found if messages are due: those have to be made
-- READY first, so that the order is kept.
FROM messages AS m
WHERE m.segment = (SELECT fence.segment FROM fence WHERE NOT fence.due)
    AND m.state = :READY AND m.sequence >= :READY_FROM AND m.expires + 0 > :now

-- piece: OTHERS_HOLD_FREE
-- Whether nothing was taken although a message was free in the snapshot: another transaction has it locked.
CASE WHEN EXISTS (SELECT 1 FROM taken) THEN false ELSE EXISTS (
    SELECT 1 FROM messages AS other
    WHERE other.segment = :SEGMENT AND other.state = :READY AND other.sequence >= :READY_FROM
        AND other.expires + 0 > :now
) END

-- piece: ADD_TO_TALLY
-- Add to the row of this connection, of the few that a queue has, so that two transactions seldom wait for each other.
-- It is the last lock that the statement takes, so a transaction that holds it waits for no message.
ON CONFLICT (segment, slot) DO UPDATE
SET ready = tallies.ready + excluded.ready,
    claimed = tallies.claimed + excluded.claimed,
    delayed = tallies.delayed + excluded.delayed
