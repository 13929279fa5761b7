-- name: count_messages
SELECT :QUICK_COUNTS FROM fences WHERE uid = :uid

-- name: count_all_messages
SELECT :FULL_COUNTS FROM fences WHERE uid = :uid

-- name: oldest_message
-- Free or claimed: one search of the index for each state, merged by SQLite.
:FREE_AND_CLAIMED
ORDER BY sequence
LIMIT 1

-- name: newest_message
:FREE_AND_CLAIMED
ORDER BY sequence DESC
LIMIT 1

-- piece: FREE_AND_CLAIMED
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :READY AND sequence >= :ready_from AND expires + 0 > :now
UNION ALL
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :CLAIMED AND sequence > 0 AND expires + 0 > :now

-- name: positions
-- How far queues are, for the processes that wait for them.
SELECT :POSITION FROM fences WHERE forget_at IS NULL AND uid IN (SELECT value FROM json_each(:uids))
