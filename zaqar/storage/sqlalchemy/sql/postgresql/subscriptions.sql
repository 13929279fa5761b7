-- name: delete_pauses
-- A bounded number of pauses that are over. A locked row belongs to a caller that begins this pause again. Waiting for
-- it could be a deadlock: that caller may wait for a row that this transaction has locked.
DELETE FROM pauses
WHERE key IN (SELECT key FROM pauses WHERE ends <= :now LIMIT :limit FOR UPDATE SKIP LOCKED)
