-- name: ping
-- The shortest answer that needs the schema: a database without it does not count as available.
SELECT 1 FROM queues LIMIT 1
