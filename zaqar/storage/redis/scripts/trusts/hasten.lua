-- Make attached trusts of a queue, or of one of its subscriptions, due now. Those that are due earlier keep their time.
-- KEYS: see trust_keys. ARGV: now, the id of a subscription, or '' for all of the queue. Reply: nil. Idempotent.
-- include: trust_keys
local now = tonumber(ARGV[1])
for _, id in ipairs(redis.call('SMEMBERS', OF_QUEUE)) do
  local due, attached, subscription, queue, rest = parts_of(redis.call('HGET', RECORDS, id))
  if attached == '1' and tonumber(due) > now and (ARGV[2] == '' or ARGV[2] == subscription) then
    put(id, ARGV[1] .. ' 1 ' .. subscription .. ' ' .. queue .. '\n' .. rest)
  end
end
return false
