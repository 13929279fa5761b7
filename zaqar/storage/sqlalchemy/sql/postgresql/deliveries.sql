-- name: subscriptions_with_due
-- The first :limit of them, without the ones that the notifier serves already.
:SUBSCRIPTIONS_WITH_DUE
    AND NOT (subscriber.id = ANY (ARRAY (SELECT json_array_elements_text(CAST(:without AS json)))))
LIMIT :limit

-- name: due_of_subscriptions
-- The first :limit deliveries of each of these subscriptions that are due, in no order, and locked. Deliveries that
-- another notifier is taking are passed over. Deliveries that a tombstone hides are then left out of these, not of the
-- search: there may be very many, if the subscription was just dropped.
SELECT delivery.*
FROM json_array_elements_text(CAST(:subscriptions AS json)) AS subscriber JOIN LATERAL (
    SELECT id, :DELIVERY_COLUMNS FROM deliveries
    WHERE subscription = subscriber.value AND state = :WAITING AND due <= :now
    ORDER BY due, number
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
) AS delivery ON true
WHERE (
    SELECT dropped.forget_at FROM dropped
    WHERE dropped.uid = delivery.uid AND dropped.subscription IN ('', delivery.subscription)
    LIMIT 1
) IS NULL

-- name: lease
UPDATE deliveries SET owner = :owner, due = :until
WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[]))
