-- Posts whose deliveries are not made yet. "due" says when a notifier may take a post; under a lease that is when the
-- lease ends. "expanded" is how far its deliveries were made, null for a new post.
-- A subquery that yields a value, not EXISTS, tests for a tombstone: the planner might join an EXISTS from either side.

-- name: queues_with_posts
-- The first :limit queues after :after and up to :last that have a post that is due and not hidden by a tombstone.
-- It goes from one queue to the next one in the index, which are three probes for each, however many posts it has;
-- DISTINCT would read them all. The first post that is due stands for its queue, as a tombstone hides all or none.
WITH RECURSIVE queue(uid) AS (
    SELECT (SELECT min(following.uid) FROM outbox AS following WHERE following.uid > :after AND following.uid <= :last)
    UNION ALL
    SELECT (
        SELECT min(following.uid) FROM outbox AS following
        WHERE following.uid > queue.uid AND following.uid <= :last
    )
    FROM queue
    WHERE queue.uid IS NOT NULL
)
SELECT queue.uid FROM queue
WHERE queue.uid IS NOT NULL
    AND (
        SELECT CASE WHEN (
            SELECT dropped.forget_at FROM dropped
            WHERE dropped.uid = due.uid AND dropped.subscription = ''
            LIMIT 1
        ) IS NULL THEN 1 END
        FROM outbox AS due
        WHERE due.uid = queue.uid AND due.due <= :now
        ORDER BY due.first
        LIMIT 1
    ) = 1
LIMIT :limit

-- name: lease_post
UPDATE outbox SET due = :until WHERE uid = :uid AND first = :first

-- name: move_position
UPDATE outbox SET due = :until, expanded = :position WHERE uid = :uid AND first = :first

-- name: forget_post
DELETE FROM outbox WHERE uid = :uid AND first = :first

-- name: insert_delivery
-- Once only, however often its post is expanded.
INSERT INTO deliveries (:DELIVERY_COLUMNS)
VALUES (:NEW_DELIVERY)
ON CONFLICT (uid, subscription, number) DO NOTHING
