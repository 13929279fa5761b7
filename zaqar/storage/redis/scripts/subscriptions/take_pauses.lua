-- Begin pauses, all or none.
-- KEYS: the pauses (sorted set: names by the time when each ends). ARGV: now, how many, then end and name of each.
-- Reply: nil if all have begun; else when the last of those that are in the way ends.
-- All checks come before the first write. Of two callers one gets nil. If the first answer was lost, a second run would find the pauses
-- of the first one in its way, so it is not sent again.
local now, count, busy = tonumber(ARGV[1]), tonumber(ARGV[2]), nil
for i = 1, count do
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[2 * i + 2])
  if ends and tonumber(ends) > now and (not busy or tonumber(ends) > tonumber(busy)) then
    busy = ends
  end
end
if busy then
  return busy
end
for i = 1, count do
  redis.call('ZADD', KEYS[1], ARGV[2 * i + 1], ARGV[2 * i + 2])
end
-- Each call removes some of those that are over, so they never pile up.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
end
return false
