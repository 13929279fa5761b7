-- include: node_keys
-- ARGV: id. Answers the row and when the lease is over, or nothing.
local row = call('HGET', ROWS, ARGV[1])
return row and { row, call('ZSCORE', EXPIRES, ARGV[1]) } or {}
