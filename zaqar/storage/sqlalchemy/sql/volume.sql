-- What the whole store holds, for monitoring. The cost depends on the numbers of queues and of subscriptions, not on
-- those of messages and deliveries. Messages are counted by the counters of the fences, corrected by what time did since
-- they were written, and everything else is counted up to a bound.

-- name: count_messages
-- Of the first :limit queues after :after, in the order of their segments: how many queues these are, the last segment,
-- their free, claimed and delayed messages, and the "created" of the oldest one of three groups: READY, CLAIMED, and
-- DELAYED ones whose delay has ended.
WITH page AS MATERIALIZED (
    SELECT segment, ready_from, :READY_COUNTER AS ready, :CLAIMED_COUNTER AS claimed, :DELAYED_COUNTER AS delayed
    FROM fences
    WHERE segment > :after
    ORDER BY segment
    LIMIT :limit
),
queue AS MATERIALIZED (
    SELECT page.*, (
        -- If no claim and no delay ends later, all claimed and delayed messages are due, however many there are.
        SELECT 1 FROM messages AS m
        WHERE m.segment = page.segment AND m.state != :READY AND m.due > :now
        LIMIT 1
    ) IS NOT NULL AS has_later
    FROM page
    -- An empty queue costs this one search. PostgreSQL might turn an EXISTS into a join that reads all messages.
    WHERE (SELECT 1 FROM messages AS m WHERE m.segment = page.segment LIMIT 1) IS NOT NULL
),
counted AS MATERIALIZED (
    SELECT
        -- The end of life of a claimed message is never before the end of its claim. So a message that has expired is
        -- READY, or due and not counted as free, or DELAYED for longer than it lives.
        CASE WHEN has_later
            THEN ready + (SELECT count(*) FROM :SOME_DUE AS first WHERE first.expires > :now)
                - (SELECT count(*) FROM :SOME_EXPIRED AS first WHERE first.state = :READY)
            ELSE ready + claimed + delayed - (SELECT count(*) FROM :SOME_EXPIRED AS first)
        END AS free,
        CASE WHEN has_later
            THEN claimed - (SELECT count(*) FROM :SOME_DUE AS first WHERE first.state = :CLAIMED)
            ELSE 0
        END AS claimed,
        CASE WHEN has_later
            THEN delayed - (SELECT count(*) FROM :SOME_DUE AS first WHERE first.state = :DELAYED)
                - (SELECT count(*) FROM :SOME_EXPIRED AS first WHERE first.state = :DELAYED AND first.due > :now)
            ELSE 0
        END AS delayed,
        -- A queue is in the order of its posts, so the first message that is alive is the oldest.
        (
            SELECT first.created FROM (
                SELECT m.created, m.expires FROM messages AS m
                WHERE m.segment = queue.segment AND m.state = :READY AND m.sequence >= queue.ready_from
                ORDER BY m.sequence
                LIMIT :MOST_COUNTED
            ) AS first
            WHERE first.expires > :now
            LIMIT 1
        ) AS oldest_ready,
        (
            SELECT first.created FROM (
                SELECT m.created, m.expires FROM messages AS m
                WHERE m.segment = queue.segment AND m.state = :CLAIMED AND m.sequence > 0
                ORDER BY m.sequence
                LIMIT :MOST_COUNTED
            ) AS first
            WHERE first.expires > :now
            LIMIT 1
        ) AS oldest_claimed,
        CASE WHEN delayed != 0 THEN (
            SELECT min(first.created) FROM :SOME_DUE AS first WHERE first.state = :DELAYED AND first.expires > :now
        ) END AS oldest_delayed
    FROM queue
)
SELECT
    (SELECT count(*) FROM page), (SELECT max(segment) FROM page),
    coalesce(CAST(sum(free) AS BIGINT), 0), coalesce(CAST(sum(claimed) AS BIGINT), 0),
    coalesce(CAST(sum(delayed) AS BIGINT), 0), min(oldest_ready), min(oldest_claimed), min(oldest_delayed)
FROM counted

-- piece: SOME_DUE
-- Messages whose claim or delay has ended and that still stand as claimed or delayed, up to a bound.
(
    SELECT m.state, m.expires, m.created FROM messages AS m
    WHERE m.segment = queue.segment AND m.state != :READY AND m.due <= :now
    ORDER BY m.due
    LIMIT :MOST_COUNTED
)

-- piece: SOME_EXPIRED
(
    SELECT m.state, m.due FROM messages AS m
    WHERE m.segment = queue.segment AND m.expires <= :now
    ORDER BY m.expires
    LIMIT :MOST_COUNTED
)

-- name: count_deliveries
-- Waiting and dead deliveries, each up to a bound, and the "created" of the oldest waiting one. The statement goes from
-- one subscription to the next one in an index, which is one probe for each, however many deliveries it has.
WITH RECURSIVE waiting_of(id) AS (
    SELECT (SELECT min(d.subscription) FROM deliveries AS d WHERE d.state = :WAITING)
    UNION ALL
    SELECT (SELECT min(d.subscription) FROM deliveries AS d WHERE d.subscription > waiting_of.id AND d.state = :WAITING)
    FROM waiting_of
    WHERE waiting_of.id IS NOT NULL
),
settled_of(id) AS (
    SELECT (SELECT min(d.subscription) FROM deliveries AS d WHERE d.state != :WAITING)
    UNION ALL
    SELECT (SELECT min(d.subscription) FROM deliveries AS d WHERE d.subscription > settled_of.id AND d.state != :WAITING)
    FROM settled_of
    WHERE settled_of.id IS NOT NULL
)
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state = :WAITING LIMIT :MOST_DELIVERIES) AS waiting),
    (
        SELECT count(*) FROM (
            SELECT 1 FROM settled_of JOIN deliveries AS d
                ON d.subscription = settled_of.id AND d.state != :WAITING AND d.state = :DEAD
            LIMIT :MOST_DELIVERIES
        ) AS dead
    ),
    (
        -- The delivery with the least number is the oldest. The second one is for subscriptions with a delivery of the
        -- number 0, the request to confirm, which may be sent again later.
        SELECT min((
            SELECT min(first.created) FROM (
                SELECT d.created FROM deliveries AS d
                WHERE d.subscription = waiting_of.id AND d.state = :WAITING AND d.number >= 0
                ORDER BY d.number
                LIMIT 2
            ) AS first
        ))
        FROM waiting_of
    )
