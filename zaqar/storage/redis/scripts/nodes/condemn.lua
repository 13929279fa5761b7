-- include: node_keys
-- ARGV: id, now. Answers 0 if the lease is not over, else 1.
if call('HEXISTS', ROWS, ARGV[1]) == 1 then
  if tonumber(call('ZSCORE', EXPIRES, ARGV[1])) > tonumber(ARGV[2]) then
    return 0
  end
  -- HDEL must be the first write: a server without free memory lets a script go on that began with it.
  call('HDEL', ROWS, ARGV[1])
  call('ZADD', EXPIRES, 0, ARGV[1])
end
return 1
