-- include: node_keys
-- ARGV: id, end of the lease, row. A node that exists, condemned or not, stays as it is.
if not call('ZSCORE', EXPIRES, ARGV[1]) then
  call('ZADD', EXPIRES, ARGV[2], ARGV[1])
  call('HSET', ROWS, ARGV[1], ARGV[3])
end
return 1
