-- Write the record of a trust, in place of one with the same id.
-- KEYS: see trust_keys. ARGV: id, record. Reply: 1 if it is new. Idempotent.
-- include: trust_keys
put(ARGV[1], ARGV[2])
return redis.call('SADD', OF_QUEUE, ARGV[1])
