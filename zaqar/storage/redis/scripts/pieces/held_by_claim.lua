-- The numbers and states of what a claim holds: those of its list whose state still names it.
local function held_by(claim_id, packed)
  local listed, numbers, states = {}, {}, {}
  for number in string.gmatch(sub(packed, 17), '%d+') do
    listed[#listed + 1] = number
  end
  for from = 1, #listed, CHUNK do
    local found = call('HMGET', PREFIX .. 's', unpack(listed, from, min(from + CHUNK - 1, #listed)))
    for place = 1, #found do
      local state = found[place]
      if state and sub(state, 21) == claim_id then
        numbers[#numbers + 1] = listed[from + place - 1]
        states[#states + 1] = state
      end
    end
  end
  return numbers, states
end
