-- How the fence of a queue comes, changes and goes.

-- name: insert_fence
-- A fence in force, or with forget_at and without a segment the tombstone of a queue that was never opened here.
INSERT INTO fences (uid, generation, next_sequence, segment, ready, claimed, delayed, ready_from, forget_at)
VALUES (:uid, :generation, 1, :segment, 0, 0, 0, 1, :forget_at)

-- name: delete_fence
DELETE FROM fences WHERE uid = :uid

-- name: raise_generation
UPDATE fences SET generation = :new_generation WHERE uid = :uid

-- name: replace_segment
-- A purge: whatever the old segment holds, its messages and claims can no longer be reached.
UPDATE fences SET segment = :new_segment, ready = 0, claimed = 0, delayed = 0 WHERE uid = :uid

-- name: turn_into_tombstone
UPDATE fences SET segment = NULL, ready = 0, claimed = 0, delayed = 0, forget_at = :until WHERE uid = :uid

-- name: add_segment
INSERT INTO segments DEFAULT VALUES RETURNING id

-- name: discard_segment
-- No fence names the segment any more. The rows in it are removed in batches.
INSERT INTO garbage (segment) VALUES (:segment)

-- name: get_usage
-- The number of messages that have not expired and the bytes of their bodies, up to :most messages. No generation is
-- compared. The index by the end of life leads past the expired ones. The length is taken next to the row, where neither
-- database reads a large body as a whole to know it.
SELECT count(*), coalesce(CAST(sum(found.size) AS BIGINT), 0)
FROM (
    SELECT length(m.body) AS size FROM messages AS m
    WHERE m.segment = (SELECT segment FROM fences WHERE uid = :uid AND forget_at IS NULL) AND m.expires > :now
    ORDER BY m.expires
    LIMIT :most
) AS found

-- The position of a queue. Each part is the first row in an order that an index has. Expired messages are passed over,
-- up to MOST_EXPIRED of them; if there are more, they count as a free message. The claim that follows finds none, and
-- removes some of them or lets searches begin after them.

-- piece: READY_IN_ORDER
FROM messages AS m
WHERE m.segment = fences.segment AND m.state = :READY AND m.sequence >= fences.ready_from
ORDER BY m.sequence

-- piece: DUE_IN_ORDER
FROM messages AS m
WHERE m.segment = fences.segment AND m.state != :READY AND m.due <= :now
ORDER BY m.due

-- piece: POSITION
uid,
next_sequence - 1 AS last,
EXISTS (SELECT 1 FROM (SELECT m.expires :READY_IN_ORDER LIMIT :MOST_EXPIRED) AS met WHERE met.expires > :now)
    OR EXISTS (SELECT m.expires :READY_IN_ORDER LIMIT 1 OFFSET :MOST_EXPIRED)
    OR EXISTS (SELECT 1 FROM (SELECT m.expires :DUE_IN_ORDER LIMIT :MOST_EXPIRED) AS met WHERE met.expires > :now)
    OR EXISTS (SELECT m.expires :DUE_IN_ORDER LIMIT 1 OFFSET :MOST_EXPIRED) AS has_free,
(
    SELECT m.due FROM messages AS m
    WHERE m.segment = fences.segment AND m.state != :READY AND m.due > :now
    ORDER BY m.due
    LIMIT 1
) AS next_due
