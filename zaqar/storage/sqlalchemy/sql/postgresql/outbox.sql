-- name: posts_of_queues
-- The first :limit posts of each of these queues that are due, in no order, and locked. Posts that another notifier is
-- taking are passed over. Posts that a tombstone hides are then left out of these, not of the search: there may be very
-- many, if the queue was just dropped.
SELECT post.*
FROM json_array_elements_text(CAST(:uids AS json)) AS queue JOIN LATERAL (
    SELECT uid, first, content, expanded FROM outbox
    WHERE uid = queue.value AND due <= :now
    ORDER BY first
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
) AS post ON true
WHERE (
    SELECT dropped.forget_at FROM dropped
    WHERE dropped.uid = post.uid AND dropped.subscription = ''
    LIMIT 1
) IS NULL

-- name: get_position
-- Locked until the end of the transaction, so that only one notifier expands the post at a time.
SELECT expanded FROM outbox WHERE uid = :uid AND first = :first
FOR NO KEY UPDATE
