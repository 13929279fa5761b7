-- Read a node that is not condemned.
-- KEYS: see node_keys. ARGV: id. Reply: its record and the end of its lease, or an empty list. It only reads.
-- include: node_keys
local record = call('HGET', RECORDS, ARGV[1])
return record and { record, call('ZSCORE', EXPIRES, ARGV[1]) } or {}
