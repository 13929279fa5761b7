-- name: keep_live
-- The id if the node is live. The lock keeps it live until the end of the transaction: other notes go on, and a
-- condemnation waits. A note that waits for a condemnation reads the row again and finds it condemned.
SELECT id FROM nodes WHERE :IS_LIVE FOR SHARE
