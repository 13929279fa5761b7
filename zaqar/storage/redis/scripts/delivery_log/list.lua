-- Read deliveries of a subscription, the newest first.
-- KEYS: see outbox_keys. ARGV: subscription, a number that theirs must be less than or '', limit, codes of the states in one word.
-- Reply: id, record and state of each. It only reads.
-- include: outbox_keys
local subscription, numbers = ARGV[1], {}
for code in string.gmatch(ARGV[4], '.') do
  local range = subscription .. ':' .. code
  local to = ARGV[2] == '' and '(' .. range .. ';' or '(' .. range .. ':' .. ARGV[2]
  local found = call('ZREVRANGEBYLEX', PREFIX .. 'deliveries_by_state', to, '[' .. range .. ':', 'LIMIT', 0, ARGV[3])
  for _, member in ipairs(found) do
    numbers[#numbers + 1] = sub(member, -12)
  end
end
table.sort(numbers, function(one, other)
  return one > other
end)
local reply = {}
for place = 1, min(#numbers, tonumber(ARGV[3])) do
  local id = subscription .. ':' .. numbers[place]
  local at = 3 * place
  reply[at - 2], reply[at - 1] = id, call('HGET', PREFIX .. 'delivery_records', id)
  reply[at] = call('HGET', PREFIX .. 'delivery_states', id)
end
return reply
