-- name: list_waiting
SELECT :DELIVERY_COLUMNS FROM deliveries WHERE id = ANY (ARRAY (:WAITING_BY_NUMBER))

-- name: resend
-- Send the settled deliveries among these numbers again. "state + 0" keeps the planner from the index of all settled
-- deliveries.
:SEND_AGAIN
WHERE uid = :uid AND subscription = :subscription
    AND number = ANY (CAST(translate(:numbers, '[]', '{}') AS bigint[])) AND state + 0 != :WAITING

-- name: resend_dead
-- It waits for rows that others have locked. If it passed over them, it could find none although some are left.
:SEND_AGAIN
WHERE id = ANY (ARRAY (:FIRST_DEAD FOR NO KEY UPDATE))
