-- Insert a node.
-- KEYS: see node_keys. ARGV: id, end of the lease, record. Reply: 1.
-- Idempotent: a node that exists, condemned or not, stays as it is.
-- include: node_keys
if not call('ZSCORE', EXPIRES, ARGV[1]) then
  call('ZADD', EXPIRES, ARGV[2], ARGV[1])
  call('HSET', RECORDS, ARGV[1], ARGV[3])
end
return 1
