-- include: keys fence states
-- ARGV: generation, now, number of claim ids or '' where claims do not matter, the claim ids, numbers of messages
-- First all are looked at, then all are removed: nothing was written when one of them refuses.
local claims, from = nil, 4
if ARGV[3] ~= '' then
  claims = {}
  from = 4 + tonumber(ARGV[3])
  for at = 4, from - 1 do
    claims[ARGV[at]] = true
  end
end
local numbers = {}
for at = from, #ARGV do
  numbers[#numbers + 1] = ARGV[at]
end

local there, claimed = {}, {}
for start = 1, #numbers, CHUNK do
  local to = min(start + CHUNK - 1, #numbers)
  local states = call('HMGET', STATES, unpack(numbers, start, to))
  local lives = call('ZMSCORE', LIFE, unpack(numbers, start, to))
  for place = 1, to - start + 1 do
    local number, state, by = numbers[start + place - 1], states[place], ''
    local expires, ends = tonumber(lives[place] or 0), 0
    if state then
      expires, ends = struct.unpack(STATE, state)
      by = holder(state)
    end
    if expires > now then
      if claims and not (now < ends and claims[by]) then
        return OVER
      end
      if by ~= '' then
        claimed[#claimed + 1] = number
      else
        there[#there + 1] = number
      end
    end
  end
end
many('ZREM', CLAIMED, claimed)
if #there > 0 then
  for _, key in ipairs({ READY, LIFE, DELAYED, DUE }) do
    many('ZREM', key, there)
  end
end
for _, list in ipairs({ claimed, there }) do
  many('HDEL', RECORDS, list)
  many('HDEL', STATES, list)
end
return #there + #claimed
