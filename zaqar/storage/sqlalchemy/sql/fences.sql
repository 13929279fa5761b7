-- The fence of a queue: the row that says which generation is in force, which segment has the messages, which number
-- comes next, and how many messages there are in each state. All parts of the message store use these statements.

-- name: append
-- Take numbers at the end of a queue and count the messages that get them. No row: the caller's copy is stale.
-- PostgreSQL holds the lock on the row until the end of the transaction, so posts commit in the order of their numbers.
UPDATE fences
SET next_sequence = next_sequence + :count, ready = ready + :more_ready, delayed = delayed + :more_delayed
WHERE uid = :uid AND generation = :generation AND forget_at IS NULL
RETURNING segment, next_sequence

-- name: add_to_counters
UPDATE fences
SET ready = ready + :more_ready, claimed = claimed + :more_claimed, delayed = delayed + :more_delayed,
    ready_from = coalesce(:new_ready_from, ready_from)
WHERE uid = :uid

-- name: first_ready
-- The number of the first READY message that is alive. The index has the number and the end of life, so the search
-- passes expired messages without reading them. "expires + 0" keeps the planner from the index of expired messages.
SELECT m.sequence FROM messages AS m
WHERE m.segment = :segment AND m.state = :READY AND m.sequence >= :ready_from AND m.expires + 0 > :now
ORDER BY m.sequence
LIMIT 1

-- name: note_post
-- Deliveries have to be made for this post. It is written in the transaction of the post itself.
INSERT INTO outbox (uid, first, due, content) VALUES (:uid, :first, :now, :content)

-- name: hide_deliveries
-- A tombstone for the deliveries of one subscription, or with '' for all of a queue and its posts.
INSERT INTO dropped (uid, subscription, sweep_at, forget_at) VALUES (:uid, :subscription, :now, :until)
ON CONFLICT (uid, subscription) DO UPDATE
SET sweep_at = :now, forget_at = CASE WHEN dropped.forget_at > :until THEN dropped.forget_at ELSE :until END

-- name: forget_garbage
DELETE FROM garbage WHERE segment = :segment

-- name: forget_segment
DELETE FROM segments WHERE id = :segment
