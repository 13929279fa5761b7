-- A message is found by its number through the index of the order (segment, state, sequence, expires), with
-- "state IN (...)" for a state that is not known.
-- "expires + 0" keeps the planner from the index by the end of life: nearly all messages are alive.

-- name: insert_message
INSERT INTO messages (segment, sequence, state, due, expires, created, claim_count, client_id, checksum, body)
VALUES (:segment, :sequence, :state, :due, :expires, :now, 0, :client_id, :checksum, :body)

-- name: insert_traced_message
-- For a post in which a message has a trace. A parameter costs time even if its value is null.
INSERT INTO messages (segment, sequence, state, due, expires, created, claim_count, client_id, checksum, body, trace)
VALUES (:segment, :sequence, :state, :due, :expires, :now, 0, :client_id, :checksum, :body, :trace)

-- name: list_ready
-- A page of free messages, in the order of the index. IS NOT is true of every client if there is none to leave out.
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :READY AND sequence > :after_ready AND expires + 0 > :now
    AND client_id IS NOT :exclude_client
ORDER BY sequence
LIMIT :limit

-- name: list_all
-- A page of free, claimed and delayed messages: one search of the index for each state, which SQLite merges as far as
-- the page needs them. A state that is not asked for begins after the last possible number.
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :READY AND sequence > :after_ready AND expires + 0 > :now
    AND client_id IS NOT :exclude_client
UNION ALL
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :CLAIMED AND sequence > :after_claimed AND expires + 0 > :now
    AND client_id IS NOT :exclude_client
UNION ALL
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state = :DELAYED AND sequence > :after_delayed AND expires + 0 > :now
    AND client_id IS NOT :exclude_client
ORDER BY sequence
LIMIT :limit

-- name: get_messages
SELECT :MESSAGE_COLUMNS FROM messages
WHERE segment = :segment AND state IN (:READY, :CLAIMED, :DELAYED)
    AND sequence IN (SELECT value FROM json_each(:sequences))
    AND expires + 0 > :now
ORDER BY sequence

-- name: examine
-- The row of a message, its state, and the live claim that holds it.
SELECT id, state, CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END AS holder FROM messages
WHERE segment = :segment AND state IN (:READY, :CLAIMED, :DELAYED) AND sequence = :sequence AND expires + 0 > :now

-- name: examine_many
SELECT id, state, CASE WHEN state = :CLAIMED AND due > :now THEN claim_id END AS holder FROM messages
WHERE segment = :segment AND state IN (:READY, :CLAIMED, :DELAYED)
    AND sequence IN (SELECT value FROM json_each(:sequences))
    AND expires + 0 > :now

-- name: pop
-- Delete the first free messages. RETURNING yields rows in no defined order.
DELETE FROM messages
WHERE id IN (
    SELECT m.id FROM messages AS m
    WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
    ORDER BY m.sequence
    LIMIT :limit
)
RETURNING :MESSAGE_COLUMNS
