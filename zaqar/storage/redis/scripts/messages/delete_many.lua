-- Delete messages, all or none.
-- KEYS: see queue_keys. ARGV: generation, now, number of claim ids or '' if claims do not matter, the claim ids, the numbers.
-- Reply: how many were there, or CLAIM_OVER if one that exists is not held by a live claim among these.
-- First it checks all of them, then it removes all of them: if it refuses, nothing was written. Idempotent.
-- include: queue_keys
-- include: check_fence
-- include: message_formats
-- include: call_in_chunks
local claims, from = nil, 4
if ARGV[3] ~= '' then
  claims = {}
  from = 4 + tonumber(ARGV[3])
  for at = 4, from - 1 do
    claims[ARGV[at]] = true
  end
end

local free, claimed = {}, {}
for start = from, #ARGV, CHUNK do
  local to = min(start + CHUNK - 1, #ARGV)
  local states = call('HMGET', PREFIX .. 'states', unpack(ARGV, start, to))
  local expiries
  for place = 1, to - start + 1 do
    local number, state, holder = ARGV[start + place - 1], states[place], ''
    local expires, ends = 0, 0
    if state then
      expires, ends = unpack_struct(STATE, state)
      holder = sub(state, HEAD_OF_STATE + 1)
    else
      expiries = expiries or call('ZMSCORE', PREFIX .. 'expiry', unpack(ARGV, start, to))
      expires = tonumber(expiries[place] or 0)
    end
    if expires > now then
      if claims and not (now < ends and claims[holder]) then
        return CLAIM_OVER
      end
      local list = holder ~= '' and claimed or free
      list[#list + 1] = number
    end
  end
end
call_in_chunks('ZREM', PREFIX .. 'claimed', claimed)
for _, word in ipairs({ 'ready', 'expiry', 'delayed', 'due' }) do
  call_in_chunks('ZREM', PREFIX .. word, free)
end
for _, list in ipairs({ claimed, free }) do
  call_in_chunks('HDEL', PREFIX .. 'messages', list)
  call_in_chunks('HDEL', PREFIX .. 'states', list)
end
return #free + #claimed
