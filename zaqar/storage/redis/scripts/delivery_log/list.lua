-- include: outbox_keys
-- ARGV: lane, less than this number or '', limit, letters of the states. Answers id, record and state of each, the newest first.
local lane, numbers = ARGV[1], {}
for letter in string.gmatch(ARGV[4], '.') do
  local range = lane .. ':' .. letter
  local to = ARGV[2] == '' and '(' .. range .. ';' or '(' .. range .. ':' .. ARGV[2]
  for _, listed in ipairs(call('ZREVRANGEBYLEX', PREFIX .. 'u', to, '[' .. range .. ':', 'LIMIT', 0, ARGV[3])) do
    numbers[#numbers + 1] = sub(listed, -12)
  end
end
table.sort(numbers, function(one, other)
  return one > other
end)
local reply = {}
for place = 1, min(#numbers, tonumber(ARGV[3])) do
  local id = lane .. ':' .. numbers[place]
  local at = 3 * place
  reply[at - 2], reply[at - 1], reply[at] = id, call('HGET', PREFIX .. 'b', id), call('HGET', PREFIX .. 'g', id)
end
return reply
