-- name: remove_old_deliveries
-- The condition again: it may have been sent again since it was found.
DELETE FROM deliveries WHERE id IN (SELECT value FROM json_each(:ids)) AND keep_until <= :now

-- name: remove_posts_of_queue
DELETE FROM outbox WHERE uid = :uid AND first IN (:POSTS_OF_QUEUE)

-- name: remove_deliveries_of_queue
DELETE FROM deliveries WHERE id IN (:DELIVERIES_OF_QUEUE)

-- name: remove_deliveries_of_subscription
DELETE FROM deliveries WHERE id IN (:DELIVERIES_OF_SUBSCRIPTION)
