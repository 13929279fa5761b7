-- include: outbox_keys
-- include: lanes
-- ARGV: lane, now, limit of the dead ones or '' for the numbers that follow. Answers how many.
local lane, now, numbers, again = ARGV[1], tonumber(ARGV[2]), {}, 0
if ARGV[3] == '' then
  for at = 4, #ARGV do
    numbers[at - 3] = ARGV[at]
  end
else
  local dead = lane .. ':d'
  for place, listed in ipairs(call('ZRANGEBYLEX', PREFIX .. 'u', '[' .. dead .. ':', '(' .. dead .. ';', 'LIMIT', 0, ARGV[3])) do
    numbers[place] = sub(listed, -12)
  end
end
for _, number in ipairs(numbers) do
  local id = lane .. ':' .. number
  local state = call('HGET', PREFIX .. 'g', id)
  if state then
    local letter, due, _, _, _, attempts = read(state)
    if letter ~= 'w' then
      take_out(id, letter, due)
      put_in(id, write('w', now, 0, 0, '', attempts))
      again = again + 1
    end
  end
end
place()
return again
