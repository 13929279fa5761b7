-- name: keep_live
-- The id if the node is live. Only one transaction writes at a time, so it stays live until the end of this one.
SELECT id FROM nodes WHERE :IS_LIVE
