-- name: set_aside
INSERT INTO set_aside (
    segment, sequence, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body, trace
)
SELECT segment, sequence, expires, created, claim_count, client_id, checksum,
    origin_queue, origin_id, origin_claim_count, body, trace
FROM messages
WHERE id = ANY (CAST(translate(:ids, '[]', '{}') AS bigint[]))

-- name: forget_set_aside
DELETE FROM set_aside
WHERE segment = :segment AND sequence = ANY (CAST(translate(:sequences, '[]', '{}') AS bigint[]))

-- name: known_letters
-- Which of these dead letters the queue has or had.
SELECT message_id FROM received
WHERE uid = :uid AND message_id = ANY (ARRAY (SELECT json_array_elements_text(CAST(:letters AS json))))
