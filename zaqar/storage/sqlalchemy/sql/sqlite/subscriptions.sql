-- name: delete_pauses
-- A bounded number of pauses that are over.
DELETE FROM pauses WHERE key IN (SELECT key FROM pauses WHERE ends <= :now LIMIT :limit)
