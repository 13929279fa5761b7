-- name: stats
-- The columns: the fence, free and claimed messages, the oldest message, the newest one. If too many have expired to
-- count them, the number of free ones is null, and then the ends are not searched for either.
WITH fence AS (:FENCE),
counted AS (
    SELECT :QUICK_COUNTS FROM fences WHERE uid = :uid AND generation = :generation AND forget_at IS NULL
)
:COUNTED_WITH_ENDS

-- name: full_stats
-- The same, however many have expired.
WITH fence AS (:FENCE),
counted AS (
    SELECT :FULL_COUNTS FROM fences WHERE uid = :uid AND generation = :generation AND forget_at IS NULL
)
:COUNTED_WITH_ENDS

-- piece: COUNTED_WITH_ENDS
SELECT fence.*, counted.*, oldest.*, newest.*
FROM fence
LEFT JOIN counted ON true
LEFT JOIN (
    SELECT * FROM (SELECT :FREE_OF_COUNTED ORDER BY sequence LIMIT 1) AS free
    UNION ALL
    SELECT * FROM (SELECT :CLAIMED_OF_COUNTED ORDER BY sequence LIMIT 1) AS claimed
    ORDER BY sequence
    LIMIT 1
) AS oldest ON true
LEFT JOIN (
    SELECT * FROM (SELECT :FREE_OF_COUNTED ORDER BY sequence DESC LIMIT 1) AS free
    UNION ALL
    SELECT * FROM (SELECT :CLAIMED_OF_COUNTED ORDER BY sequence DESC LIMIT 1) AS claimed
    ORDER BY sequence DESC
    LIMIT 1
) AS newest ON true

-- piece: COUNTED_SEGMENT
(SELECT fence.segment FROM fence WHERE EXISTS (SELECT 1 FROM counted WHERE counted.free IS NOT NULL))

-- piece: FREE_OF_COUNTED
:MESSAGE_COLUMNS FROM messages
WHERE segment = :COUNTED_SEGMENT AND state = :READY AND sequence > :READY_FROM - 1 AND expires + 0 > :now

-- piece: CLAIMED_OF_COUNTED
:MESSAGE_COLUMNS FROM messages
WHERE segment = :COUNTED_SEGMENT AND state = :CLAIMED AND sequence > 0 AND expires + 0 > :now

-- name: positions
-- How far queues are, for the processes that wait for them.
SELECT :POSITION FROM fences
WHERE forget_at IS NULL AND uid = ANY (ARRAY (SELECT json_array_elements_text(CAST(:uids AS json))))
