-- Keystone trusts that the service has made and not yet deleted.

-- piece: TRUST_COLUMNS
-- A trust in the order of the fields of model.Trust.
id, project, user_id, queue_uid, subscription_id, expires, due, attached, tries

-- name: put
INSERT INTO trusts (:TRUST_COLUMNS)
VALUES (:id, :project, :user_id, :queue_uid, :subscription_id, :expires, :due, :attached, :tries)
ON CONFLICT (id) DO UPDATE SET
    project = excluded.project, user_id = excluded.user_id, queue_uid = excluded.queue_uid,
    subscription_id = excluded.subscription_id, expires = excluded.expires, due = excluded.due,
    attached = excluded.attached, tries = excluded.tries

-- name: get
SELECT :TRUST_COLUMNS FROM trusts WHERE id = :id

-- name: hasten_queue
UPDATE trusts SET due = :now WHERE queue_uid = :queue_uid AND attached IS TRUE AND due > :now

-- name: hasten_subscription
UPDATE trusts SET due = :now
WHERE queue_uid = :queue_uid AND subscription_id = :subscription_id AND attached IS TRUE AND due > :now

-- name: list_due
SELECT :TRUST_COLUMNS FROM trusts WHERE due <= :now ORDER BY due LIMIT :limit

-- name: replace
-- Only if no other caller changed the due time since the caller read it: of several callers one succeeds.
UPDATE trusts SET
    project = :project, user_id = :user_id, queue_uid = :queue_uid, subscription_id = :subscription_id,
    expires = :expires, due = :due, attached = :attached, tries = :tries
WHERE id = :id AND due = :was_due

-- name: forget
DELETE FROM trusts WHERE id = :id
