-- include: trust_keys
-- ARGV: id, row.
put(ARGV[1], ARGV[2])
return redis.call('SADD', KEYS[3], ARGV[1])
