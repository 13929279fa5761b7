-- Count live subscriptions of a queue.
-- KEYS: see subscription_keys. ARGV: the id after which to begin, now, how many to count at most.
-- Reply: how many; then the id after which to go on, if there may be more. It only reads, at most AT_ONCE of them.
-- include: subscription_keys
local AT_ONCE = 1000
local ids = redis.call('ZRANGEBYLEX', IDS, '(' .. ARGV[1], '+', 'LIMIT', 0, math.min(tonumber(ARGV[3]), AT_ONCE))
local now, count = tonumber(ARGV[2]), 0
if #ids == 0 then
  return { 0 }
end
for _, record in ipairs(redis.call('HMGET', RECORDS, unpack(ids))) do
  local _, expires = parts_of(record)
  if now < expires then
    count = count + 1
  end
end
return { count, ids[#ids] }
