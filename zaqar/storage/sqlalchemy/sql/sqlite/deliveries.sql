-- name: subscriptions_with_due
-- The first :limit of them, without those that the notifier serves already.
:SUBSCRIPTIONS_WITH_DUE
    AND NOT (subscriber.id IN (SELECT value FROM json_each(:without)))
LIMIT :limit

-- name: due_of_subscriptions
-- The first :limit deliveries of each of these subscriptions that are due, in no order. Those that a tombstone hides
-- are left out of them, not of all: they may be very many if the subscription was dropped at this moment.
SELECT deliveries.id, :DELIVERY_COLUMNS
FROM json_each(:subscriptions) AS subscriber JOIN deliveries
    ON deliveries.id IN (
        SELECT d.id FROM deliveries AS d
        WHERE d.subscription = subscriber.value AND d.state = :WAITING AND d.due <= :now
        ORDER BY d.due, d.number
        LIMIT :limit
    )
WHERE (
    SELECT dropped.forget_at FROM dropped
    WHERE dropped.uid = deliveries.uid AND dropped.subscription IN ('', deliveries.subscription)
    LIMIT 1
) IS NULL

-- name: lease
UPDATE deliveries SET owner = :owner, due = :until WHERE id IN (SELECT value FROM json_each(:ids))
