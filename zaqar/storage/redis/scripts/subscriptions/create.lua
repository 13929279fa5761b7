-- Insert a subscription, unless a live one has its subscriber.
-- KEYS: see subscription_keys. ARGV: id, record, now. Reply: the record that is in place then.
-- Idempotent. Of two callers with the same subscriber the second gets the record of the first.
-- include: subscription_keys
local _, _, subscriber = parts_of(ARGV[2])
local _, there = live_with(subscriber, tonumber(ARGV[3]))
if there then
  return there
end
redis.call('HSET', RECORDS, ARGV[1], ARGV[2])
redis.call('ZADD', IDS, 0, ARGV[1])
redis.call('HSET', SUBSCRIBERS, subscriber, ARGV[1])
return ARGV[2]
