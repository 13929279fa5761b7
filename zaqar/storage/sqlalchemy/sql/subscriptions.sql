-- Subscriptions of queues, and pauses.
--
-- The primary key (queue_uid, id) serves the listing, the unique key (queue_uid, subscriber) allows a subscriber once.
-- An expired subscription keeps its row, and its place in the unique key, until a caller deletes it.

-- piece: SUBSCRIPTION_COLUMNS
-- A subscription in the order of the fields of model.Subscription.
id, queue_uid, project, kind, source, subscriber, ttl, created, expires, options, state, secrets, version, challenge

-- name: create
INSERT INTO subscriptions (:SUBSCRIPTION_COLUMNS)
VALUES (
    :id, :queue_uid, :project, :kind, :source, :subscriber, :ttl, :created, :expires, :options, :state, :secrets,
    :version, :challenge
)
ON CONFLICT (queue_uid, subscriber) DO NOTHING

-- name: get
SELECT :SUBSCRIPTION_COLUMNS FROM subscriptions WHERE queue_uid = :queue_uid AND id = :id AND expires > :now

-- name: exists
SELECT id FROM subscriptions WHERE queue_uid = :queue_uid AND id = :id

-- name: find
-- Expired or not.
SELECT :SUBSCRIPTION_COLUMNS FROM subscriptions WHERE queue_uid = :queue_uid AND subscriber = :subscriber

-- name: list_after
SELECT :SUBSCRIPTION_COLUMNS FROM subscriptions
WHERE queue_uid = :queue_uid AND id > :after AND expires > :now
ORDER BY id
LIMIT :limit

-- name: count_of_queue
-- Up to :most. The index of (queue_uid, expires) leads past expired subscriptions.
SELECT count(*) FROM (
    SELECT 1 FROM subscriptions WHERE queue_uid = :queue_uid AND expires > :now LIMIT :most
) AS found

-- name: count_of_project
SELECT count(*) FROM (
    SELECT 1 FROM subscriptions WHERE project = :project AND expires > :now LIMIT :most
) AS found

-- name: list_expired
-- Of all queues.
SELECT :SUBSCRIPTION_COLUMNS FROM subscriptions WHERE expires <= :now ORDER BY expires LIMIT :limit

-- name: replace
-- Only if no other caller changed the subscription since the caller read it.
UPDATE subscriptions SET
    project = :project, kind = :kind, source = :source, subscriber = :subscriber, ttl = :ttl, created = :created,
    expires = :expires, options = :options, state = :state, secrets = :secrets, version = :version,
    challenge = :challenge
WHERE queue_uid = :queue_uid AND id = :id AND expires > :now AND version = :version - 1

-- name: delete
DELETE FROM subscriptions WHERE queue_uid = :queue_uid AND id = :id

-- name: delete_version
DELETE FROM subscriptions WHERE queue_uid = :queue_uid AND id = :id AND version = :version

-- name: delete_with_subscriber
DELETE FROM subscriptions WHERE queue_uid = :queue_uid AND id = :id AND subscriber = :subscriber

-- name: delete_expired
-- The expired one that has a subscriber, so that the unique key lets a new one in.
DELETE FROM subscriptions WHERE queue_uid = :queue_uid AND subscriber = :subscriber AND expires <= :now

-- name: delete_all
DELETE FROM subscriptions WHERE queue_uid = :queue_uid

-- name: begin_pause
-- Changes no row if the pause of this key is not over. Of two callers at the same moment the second one waits for the
-- first, and then finds its pause.
INSERT INTO pauses (key, ends) VALUES (:key, :ends)
ON CONFLICT (key) DO UPDATE SET ends = excluded.ends WHERE pauses.ends <= :now

-- name: get_pause
SELECT ends FROM pauses WHERE key = :key
