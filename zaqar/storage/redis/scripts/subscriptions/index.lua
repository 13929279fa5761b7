-- KEYS: the index of all subscriptions. ARGV: when one is over, its entry. A script, so that it is waited for like the subscription.
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
