-- The four tables with bodies, each read by its primary key. A page has the columns of the key, then the body, or null
-- if it is none that is searched for: sealed, but not with the beginning :without. The database compares the first
-- bytes, so that it sends only these bodies.

-- name: messages_page
SELECT id, CASE WHEN :IS_SOUGHT THEN body END FROM messages WHERE id > :after_id ORDER BY id LIMIT :limit

-- name: set_aside_page
SELECT segment, sequence, CASE WHEN :IS_SOUGHT THEN body END FROM set_aside
WHERE (segment, sequence) > (:after_segment, :after_sequence)
ORDER BY segment, sequence
LIMIT :limit

-- name: deliveries_page
SELECT id, CASE WHEN :IS_SOUGHT THEN body END FROM deliveries WHERE id > :after_id ORDER BY id LIMIT :limit

-- name: outbox_page
-- The content is a list of bodies, which the caller unpacks.
SELECT uid, first, content FROM outbox
WHERE (uid, first) > (:after_uid, :after_first)
ORDER BY uid, first
LIMIT :limit

-- piece: IS_SOUGHT
substr(body, 1, 1) = CAST(:sealed AS :BYTES)
    AND substr(body, 1, length(CAST(:without AS :BYTES))) != CAST(:without AS :BYTES)

-- name: replace_message
UPDATE messages SET body = :new WHERE id = :this_id AND body = :old

-- name: replace_set_aside
UPDATE set_aside SET body = :new WHERE segment = :this_segment AND sequence = :this_sequence AND body = :old

-- name: replace_delivery
UPDATE deliveries SET body = :new WHERE id = :this_id AND body = :old
