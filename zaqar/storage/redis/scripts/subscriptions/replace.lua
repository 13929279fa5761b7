-- include: subscription_keys
-- ARGV: id, row, now, the version that has to be in place. Answers when the one before was to be over,
-- 0 where that version is not in place, or -1 where another has the subscriber.
local now = tonumber(ARGV[3])
local old = redis.call('HGET', KEYS[2], ARGV[1])
if not old then
  return 0
end
local version, over, subscriber_before = parts_of(old)
if version ~= ARGV[4] or now >= over then
  return 0
end
local _, _, subscriber = parts_of(ARGV[2])
local other = live_with(subscriber, now)
if other and other ~= ARGV[1] then
  return -1
end
if subscriber_before ~= subscriber then
  give_up(ARGV[1], subscriber_before)
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], subscriber, ARGV[1])
return (string.match(old, '^%S+ (%S+)'))
