-- The log of the deliveries of one subscription.
-- "uid || ''" keeps the planner from the index by the queue: the rows of one subscription are found by indexes that
-- begin with it.

-- name: list_deliveries
SELECT :DELIVERY_COLUMNS FROM deliveries
WHERE uid = :uid AND subscription = :subscription AND number < :before
ORDER BY number DESC
LIMIT :limit

-- name: list_settled
-- The log of the deliveries in one state, done or dead. "state != WAITING" is the condition of the index.
SELECT :DELIVERY_COLUMNS FROM deliveries
WHERE subscription = :subscription AND uid || '' = :uid AND state != :WAITING AND state = :state AND number < :before
ORDER BY number DESC
LIMIT :limit

-- name: get_delivery
SELECT :DELIVERY_COLUMNS FROM deliveries WHERE uid = :uid AND subscription = :subscription AND number = :number

-- name: count_deliveries
-- Waiting and dead deliveries. Both are counted in an index, without reading rows.
SELECT
    (
        SELECT count(*) FROM deliveries
        WHERE subscription = :subscription AND uid || '' = :uid AND state = :WAITING
    ),
    (
        SELECT count(*) FROM deliveries
        WHERE subscription = :subscription AND uid || '' = :uid AND state != :WAITING AND state = :DEAD
    )

-- piece: SEND_AGAIN
UPDATE deliveries SET state = :WAITING, due = :now, owner = NULL, tries = 0, keep_until = NULL

-- piece: WAITING_BY_NUMBER
-- The index has waiting deliveries in the order of their times, so their numbers are sorted. Rows are read for the page
-- only.
SELECT d.id FROM deliveries AS d
WHERE d.subscription = :subscription AND d.uid || '' = :uid AND d.state = :WAITING AND d.number + 0 < :before
ORDER BY d.number + 0 DESC
LIMIT :limit

-- piece: FIRST_DEAD
SELECT d.id FROM deliveries AS d
WHERE d.subscription = :subscription AND d.uid || '' = :uid AND d.state != :WAITING AND d.state = :DEAD
ORDER BY d.number
LIMIT :limit
