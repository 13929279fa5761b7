-- name: subscriptions_with_due
-- The first :limit of them, without the ones that the notifier serves already.
:SUBSCRIPTIONS_WITH_DUE
    AND NOT (subscriber.id IN (SELECT value FROM json_each(:without)))
LIMIT :limit

-- name: due_of_subscriptions
-- The first :limit deliveries of each of these subscriptions that are due, in no order. Deliveries that a tombstone
-- hides are then left out of these, not of the search: there may be very many, if the subscription was just dropped.
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
