-- Replace a live subscription.
-- KEYS: see subscription_keys. ARGV: id, record, now, the version that has to be in place.
-- Reply: when the one before was to expire; 0 if that version is not in place; -1 if another subscription has the subscriber.
-- Of two callers that have read the same version one succeeds. If the first answer was lost, a second run would reply 0, so it is not
-- sent again.
-- include: subscription_keys
local now = tonumber(ARGV[3])
local old = redis.call('HGET', RECORDS, ARGV[1])
if not old then
  return 0
end
local version, expires, subscriber_before = parts_of(old)
if version ~= ARGV[4] or now >= expires then
  return 0
end
local _, _, subscriber = parts_of(ARGV[2])
local other = live_with(subscriber, now)
if other and other ~= ARGV[1] then
  return -1
end
if subscriber_before ~= subscriber then
  release_subscriber(ARGV[1], subscriber_before)
end
redis.call('HSET', RECORDS, ARGV[1], ARGV[2])
redis.call('HSET', SUBSCRIBERS, subscriber, ARGV[1])
return (string.match(old, '^%S+ (%S+)'))
