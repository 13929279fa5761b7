-- name: remove_old_deliveries
-- The condition again: it may have been sent again since it was found.
DELETE FROM deliveries WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[])) AND keep_until <= :now

-- name: remove_posts_of_queue
DELETE FROM outbox WHERE uid = :uid AND first = ANY (ARRAY (:POSTS_OF_QUEUE FOR NO KEY UPDATE))

-- name: remove_deliveries_of_queue
DELETE FROM deliveries WHERE id = ANY (ARRAY (:DELIVERIES_OF_QUEUE FOR NO KEY UPDATE))

-- name: remove_deliveries_of_subscription
DELETE FROM deliveries WHERE id = ANY (ARRAY (:DELIVERIES_OF_SUBSCRIPTION FOR NO KEY UPDATE))
