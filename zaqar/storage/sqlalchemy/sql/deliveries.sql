-- Deliveries that a notifier takes, sends and settles. "due" says when the next attempt may begin; under a lease of the
-- notifier "owner" that is when the lease ends. A settled delivery is done or dead; it stays in the log for a while.
-- "uid || ''" keeps the planner from the index by the queue: the rows of one subscription are found by indexes that
-- begin with it.
-- A subquery that yields a value, not EXISTS, tests for a tombstone: the planner might join an EXISTS from either side.

-- name: put_delivery
INSERT INTO deliveries (:DELIVERY_COLUMNS)
VALUES (:NEW_DELIVERY)
ON CONFLICT (uid, subscription, number) DO UPDATE
SET body = :new_body, ttl = :new_ttl, created = :new_created, client_id = :new_client_id, due = :new_due,
    kind = :new_kind, owner = :new_owner, state = :new_state, tries = :new_tries, attempts = :new_attempts,
    keep_until = :new_keep_until, trace = :new_trace, request_id = :new_request_id

-- piece: LEASED_BY_OWNER
uid = :uid AND subscription = :subscription AND number = :number AND owner = :owner AND state = :WAITING

-- name: extend_lease
UPDATE deliveries SET due = :until WHERE :LEASED_BY_OWNER

-- name: make_due_earlier
-- Only if nobody took or changed it since it was read: then its due is another one.
UPDATE deliveries SET due = :until, owner = NULL
WHERE uid = :uid AND subscription = :subscription AND number = :number AND state = :WAITING AND due = :before

-- name: settle
UPDATE deliveries
SET state = :new_state, due = :new_due, tries = :new_tries, attempts = :new_attempts, keep_until = :new_keep_until,
    owner = NULL
WHERE :LEASED_BY_OWNER

-- name: remove
DELETE FROM deliveries WHERE :LEASED_BY_OWNER

-- name: has_undelivered_before
-- Whether a post of the queue, or a delivery of the subscription, with a lesser number waits. Each search ends at the
-- first row that counts, which is mostly the first row: ORDER BY and LIMIT make the planner use the index that has this
-- order, and so does "number >= 0", which is the condition of that index. After MOST_PASSED rows that are due too late
-- to count, the answer is yes.
SELECT
    (SELECT first FROM outbox WHERE uid = :uid AND first < :number ORDER BY first LIMIT 1) IS NOT NULL
    OR (
        SELECT 1 FROM (
            SELECT due :UNSENT_BEFORE ORDER BY number LIMIT :MOST_PASSED
        ) AS first_ones
        WHERE first_ones.due < :due_before
        LIMIT 1
    ) IS NOT NULL
    OR (
        SELECT due :UNSENT_BEFORE ORDER BY number LIMIT 1 OFFSET :LAST_PASSED
    ) IS NOT NULL

-- piece: UNSENT_BEFORE
FROM deliveries
WHERE subscription = :subscription AND uid || '' = :uid AND state = :WAITING AND number >= 0 AND number < :number

-- piece: SUBSCRIPTIONS_WITH_DUE
-- The subscriptions after :after and up to :last that have a delivery that is due and not hidden by a tombstone. The
-- statement goes from one subscription to the next one in the index, which are three probes for each, however many
-- deliveries it has; DISTINCT would read them all. The first delivery that is due stands for its subscription, as a
-- tombstone hides all or none.
WITH RECURSIVE subscriber(id) AS (
    SELECT (
        SELECT min(following.subscription) FROM deliveries AS following
        WHERE following.subscription > :after AND following.subscription <= :last AND following.state = :WAITING
    )
    UNION ALL
    SELECT (
        SELECT min(following.subscription) FROM deliveries AS following
        WHERE following.subscription > subscriber.id AND following.subscription <= :last AND following.state = :WAITING
    )
    FROM subscriber
    WHERE subscriber.id IS NOT NULL
)
SELECT subscriber.id FROM subscriber
WHERE subscriber.id IS NOT NULL
    AND (
        SELECT CASE WHEN (
            SELECT dropped.forget_at FROM dropped
            WHERE dropped.uid = due.uid AND dropped.subscription IN ('', due.subscription)
            LIMIT 1
        ) IS NULL THEN 1 END
        FROM deliveries AS due
        WHERE due.subscription = subscriber.id AND due.state = :WAITING AND due.due <= :now
        ORDER BY due.due, due.number
        LIMIT 1
    ) = 1
