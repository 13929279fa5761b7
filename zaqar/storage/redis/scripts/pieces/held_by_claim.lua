-- The numbers and states of the messages that a claim holds. Its list has all that it took; a message that was deleted since, or
-- that another claim took after this one was over, has a state that does not name the claim.
local function held_by_claim(claim_id, packed)
  local listed, numbers, states = {}, {}, {}
  for number in string.gmatch(sub(packed, HEAD_OF_CLAIM + 1), '%d+') do
    listed[#listed + 1] = number
  end
  for from = 1, #listed, CHUNK do
    local found = call('HMGET', PREFIX .. 'states', unpack(listed, from, min(from + CHUNK - 1, #listed)))
    for place = 1, #found do
      local state = found[place]
      if state and sub(state, HEAD_OF_STATE + 1) == claim_id then
        numbers[#numbers + 1] = listed[from + place - 1]
        states[#states + 1] = state
      end
    end
  end
  return numbers, states
end
