-- name: list_waiting
SELECT :DELIVERY_COLUMNS FROM deliveries WHERE id IN (:WAITING_BY_NUMBER)

-- name: resend
-- Send the settled deliveries among these numbers again. "state + 0" keeps the planner from the index of all settled
-- deliveries.
:SEND_AGAIN
WHERE uid = :uid AND subscription = :subscription AND number IN (SELECT value FROM json_each(:numbers))
    AND state + 0 != :WAITING

-- name: resend_dead
:SEND_AGAIN
WHERE id IN (:FIRST_DEAD)
