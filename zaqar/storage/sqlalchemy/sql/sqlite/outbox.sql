-- name: posts_of_queues
-- The first :limit posts of each of these queues that are due, in no order. Posts that a tombstone hides are then left
-- out of these, not of the search: there may be very many, if the queue was just dropped.
SELECT outbox.uid, outbox.first, outbox.content, outbox.expanded
FROM json_each(:uids) AS queue JOIN outbox
    ON outbox.uid = queue.value AND outbox.first IN (
        SELECT o.first FROM outbox AS o
        WHERE o.uid = queue.value AND o.due <= :now
        ORDER BY o.first
        LIMIT :limit
    )
WHERE (
    SELECT dropped.forget_at FROM dropped
    WHERE dropped.uid = outbox.uid AND dropped.subscription = ''
    LIMIT 1
) IS NULL

-- name: get_position
SELECT expanded FROM outbox WHERE uid = :uid AND first = :first
