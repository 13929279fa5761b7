-- include: keys
-- include: fence
-- include: states
-- include: many
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

local free_ones, claimed = {}, {}
for start = from, #ARGV, CHUNK do
  local to = min(start + CHUNK - 1, #ARGV)
  local states = call('HMGET', PREFIX .. 's', unpack(ARGV, start, to))
  local lives
  for place = 1, to - start + 1 do
    local number, state, holder = ARGV[start + place - 1], states[place], ''
    local expires, ends = 0, 0
    if state then
      expires, ends = unpack_struct(STATE, state)
      holder = sub(state, 21)
    else
      lives = lives or call('ZMSCORE', PREFIX .. 'l', unpack(ARGV, start, to))
      expires = tonumber(lives[place] or 0)
    end
    if expires > now then
      if claims and not (now < ends and claims[holder]) then
        return OVER
      end
      local list = holder ~= '' and claimed or free_ones
      list[#list + 1] = number
    end
  end
end
many('ZREM', PREFIX .. 'c', claimed)
for _, letter in ipairs({ 'r', 'l', 'o', 'd' }) do
  many('ZREM', PREFIX .. letter, free_ones)
end
for _, list in ipairs({ claimed, free_ones }) do
  many('HDEL', PREFIX .. 'm', list)
  many('HDEL', PREFIX .. 's', list)
end
return #free_ones + #claimed
