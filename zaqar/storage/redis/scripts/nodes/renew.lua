-- include: node_keys
-- ARGV: id, end of the lease. Answers 1, or 0 if the node is absent or condemned.
if call('HEXISTS', ROWS, ARGV[1]) == 0 then
  return 0
end
-- ZREM must be the first write: a server without free memory lets a script go on that began with it.
call('ZREM', EXPIRES, ARGV[1])
call('ZADD', EXPIRES, ARGV[2], ARGV[1])
return 1
