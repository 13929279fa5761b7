-- include: trust_keys
-- ARGV: now, the id of a subscription, or '' for all of the queue.
local now = tonumber(ARGV[1])
for _, id in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local due, attached, subscription, queue, rest = parts_of(redis.call('HGET', KEYS[2], id))
  if attached == '1' and tonumber(due) > now and (ARGV[2] == '' or ARGV[2] == subscription) then
    put(id, ARGV[1] .. ' 1 ' .. subscription .. ' ' .. queue .. '\n' .. rest)
  end
end
return false
