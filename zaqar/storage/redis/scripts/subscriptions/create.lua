-- include: subscription_keys
-- ARGV: id, row, now. Answers the row in place.
local _, _, subscriber = parts_of(ARGV[2])
local _, there = live_with(subscriber, tonumber(ARGV[3]))
if there then
  return there
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('HSET', KEYS[3], subscriber, ARGV[1])
return ARGV[2]
