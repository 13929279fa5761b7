-- Condemn a node whose lease is over.
-- KEYS: see node_keys. ARGV: id, now. Reply: 0 if the lease is not over; else 1, also if it was condemned before or is absent.
-- Of a renewal and a condemnation one comes first, and the other one fails. Idempotent.
-- include: node_keys
if call('HEXISTS', RECORDS, ARGV[1]) == 1 then
  if tonumber(call('ZSCORE', EXPIRES, ARGV[1])) > tonumber(ARGV[2]) then
    return 0
  end
  -- HDEL must be the first write: a server without free memory lets a script go on that began with it.
  call('HDEL', RECORDS, ARGV[1])
  call('ZADD', EXPIRES, 0, ARGV[1])
end
return 1
