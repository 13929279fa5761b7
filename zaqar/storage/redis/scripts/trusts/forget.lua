-- Remove the record of a trust.
-- KEYS: see trust_keys. ARGV: id. Reply: 1, or 0 if it is absent. Idempotent.
-- include: trust_keys
redis.call('ZREM', DUE, ARGV[1])
redis.call('SREM', OF_QUEUE, ARGV[1])
return redis.call('HDEL', RECORDS, ARGV[1])
