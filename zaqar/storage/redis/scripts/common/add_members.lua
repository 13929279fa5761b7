-- KEYS: a set. ARGV: members. A script, so that it is waited for like what will be found by it.
return redis.call('SADD', KEYS[1], unpack(ARGV))
