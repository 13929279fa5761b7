-- include: node_keys
-- ARGV: id
call('HDEL', ROWS, ARGV[1])
call('ZREM', EXPIRES, ARGV[1])
return call('UNLINK', SUBSCRIPTIONS)
