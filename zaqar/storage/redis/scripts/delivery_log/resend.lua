-- Make settled deliveries wait again: due now, no tries, their attempts kept.
-- KEYS: see outbox_keys. ARGV: subscription, now, a limit (then DEAD ones) or '' (then those of the numbers that follow).
-- Reply: how many. If the answer was lost, a second run would not count those of the first, so it is not sent again.
-- include: outbox_keys
-- include: subscription_backlog
local subscription, now, numbers, count = ARGV[1], tonumber(ARGV[2]), {}, 0
if ARGV[3] == '' then
  for at = 4, #ARGV do
    numbers[at - 3] = ARGV[at]
  end
else
  local range = subscription .. ':' .. DEAD
  local from, to = '[' .. range .. ':', '(' .. range .. ';'
  for place, member in ipairs(call('ZRANGEBYLEX', PREFIX .. 'deliveries_by_state', from, to, 'LIMIT', 0, ARGV[3])) do
    numbers[place] = sub(member, -12)
  end
end
for _, number in ipairs(numbers) do
  local id = subscription .. ':' .. number
  local state = call('HGET', PREFIX .. 'delivery_states', id)
  if state then
    local code, due, _, _, _, attempts = read(state)
    if code ~= WAITING then
      take_out(id, code, due)
      put_in(id, write(WAITING, now, 0, 0, '', attempts))
      count = count + 1
    end
  end
end
place_all()
return count
