-- Read entries of the index of a project: of subscriptions that have not expired.
-- KEYS: the index, see subscriptions.py. ARGV: now, how many to pass over, limit. Reply: the entries, the one that expires first at the
-- beginning. Each call removes some that have expired, which a crash may have left; so they never pile up. Idempotent.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'LIMIT', ARGV[2], ARGV[3])
