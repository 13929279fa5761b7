-- Records of queues. The unique key (project, kind, name) finds one record and serves the listings in its order.

-- piece: QUEUE_COLUMNS
-- A queue in the order of the fields of model.Queue.
queues.uid, queues.project, queues.name, queues.kind, queues.metadata, queues.pool, queues.generation, queues.notify

-- name: create
-- Of two callers at the same moment one inserts; the other one waits for it and then inserts nothing.
INSERT INTO queues (uid, project, name, kind, metadata, pool, generation, notify)
VALUES (:uid, :project, :name, :kind, :metadata, :pool, :generation, :notify)
ON CONFLICT (project, kind, name) DO NOTHING

-- name: get
SELECT :QUEUE_COLUMNS FROM queues WHERE project = :project AND kind = :kind AND name = :name

-- name: list_after
SELECT :QUEUE_COLUMNS FROM queues
WHERE project = :project AND kind = :kind AND name > :after
ORDER BY name
LIMIT :limit

-- name: list_names
SELECT name FROM queues
WHERE project = :project AND kind = :kind AND name > :after
ORDER BY name
LIMIT :limit

-- name: count
-- Up to :most, or all if it is a number that no project reaches.
SELECT count(*) FROM (SELECT 1 FROM queues WHERE project = :project AND kind = :kind LIMIT :most) AS found

-- name: replace
-- Only if no other caller changed the record since the caller read it. Project, kind and name never change.
UPDATE queues SET metadata = :metadata, pool = :pool, generation = :generation, notify = :notify
WHERE uid = :uid AND generation = :replaces

-- name: delete
-- By uid: a queue of the same name that was created later stays.
DELETE FROM queues WHERE uid = :uid

-- name: any_on_pool
SELECT uid FROM queues WHERE pool = :pool LIMIT 1
