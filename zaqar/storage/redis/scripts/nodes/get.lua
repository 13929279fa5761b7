-- include: node_keys
-- ARGV: id. Answers the row and the end of the lease, or nothing.
local row = call('HGET', ROWS, ARGV[1])
return row and { row, call('ZSCORE', EXPIRES, ARGV[1]) } or {}
