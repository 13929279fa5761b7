-- include: node_keys
-- ARGV: id, when the lease is over, row. One that is there already, condemned or not, is left as it is.
if not call('ZSCORE', EXPIRES, ARGV[1]) then
  call('ZADD', EXPIRES, ARGV[2], ARGV[1])
  call('HSET', ROWS, ARGV[1], ARGV[3])
end
return 1
