-- Running processes that hold WebSocket connections, and the subscriptions of these connections.
-- A condemned node has 0 as expires, so that it comes first among the expired ones.

-- piece: NODE_COLUMNS
-- A node in the order of the fields of base.Node.
id, machine, host, port, socket, expires, key

-- piece: IS_LIVE
id = :node_id AND condemned IS FALSE

-- name: add
INSERT INTO nodes (:NODE_COLUMNS, condemned)
VALUES (:id, :machine, :host, :port, :socket, :expires, :key, FALSE)
ON CONFLICT DO NOTHING

-- name: get
SELECT :NODE_COLUMNS FROM nodes WHERE :IS_LIVE

-- name: is_live
SELECT id FROM nodes WHERE :IS_LIVE

-- name: renew
UPDATE nodes SET expires = :expires WHERE :IS_LIVE

-- name: condemn
UPDATE nodes SET expires = 0, condemned = TRUE WHERE :IS_LIVE AND expires <= :now

-- name: list_expired
SELECT id FROM nodes WHERE expires <= :now ORDER BY expires LIMIT :limit

-- name: remove
DELETE FROM nodes WHERE id = :node_id

-- name: note
INSERT INTO node_subscriptions (node_id, queue_uid, subscription_id)
VALUES (:node_id, :queue_uid, :subscription_id)
ON CONFLICT DO NOTHING

-- name: list_subscriptions
SELECT queue_uid, subscription_id FROM node_subscriptions WHERE node_id = :node_id LIMIT :limit

-- name: forget
DELETE FROM node_subscriptions
WHERE node_id = :node_id AND queue_uid = :queue_uid AND subscription_id = :subscription_id

-- name: forget_all
DELETE FROM node_subscriptions WHERE node_id = :node_id
