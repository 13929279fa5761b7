-- Set the end of the lease of a node.
-- KEYS: see node_keys. ARGV: id, end of the lease. Reply: 1, or 0 if the node is absent or condemned. Idempotent.
-- A condemned node has no record, so it can never be renewed.
-- include: node_keys
if call('HEXISTS', RECORDS, ARGV[1]) == 0 then
  return 0
end
-- ZREM must be the first write: a server without free memory lets a script go on that began with it.
call('ZREM', EXPIRES, ARGV[1])
call('ZADD', EXPIRES, ARGV[2], ARGV[1])
return 1
