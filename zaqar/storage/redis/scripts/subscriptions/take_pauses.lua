-- KEYS: the pauses, by name, scored by when each ends. ARGV: now, how many to take, each with its end, names.
-- Takes them all and answers nothing, or answers when the last of those that are not over ends.
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
-- Some of those that are over go with each call, so that they never pile up.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
end
return false
