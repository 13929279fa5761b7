-- Tell how far a queue is, and note that a client waits for it.
-- KEYS: see queue_keys. ARGV: generation (ignored), now, until when a client counts as waiting, and the time up to which an earlier
-- note has to reach to be left as it is.
-- Reply: the last number, 1 if a message is free, and when the next claim or delay ends; nil if there is no such queue.
-- It changes nothing but the note: messages and claims that are due stay where they are. So it looks at a bounded number of them. If
-- very many are dead and nobody has removed them, a message may count as free, and a claim as one that holds a message. Idempotent.
-- include: queue_keys
-- include: message_formats
local LOOKS = 100 -- number of claims, or of messages in one command, that are looked at
local left = 10 * LOOKS -- number of messages of claims that are looked at
local fence = call('HMGET', FENCE, 'generation', 'last', 'waited_until')
if not fence[1] then
  return false
end
if (tonumber(fence[3]) or 0) < tonumber(ARGV[4]) then
  -- HDEL must be the first write: a server without free memory refuses a script whose first write may need some.
  call('HDEL', FENCE, 'waited_until')
  call('HSET', FENCE, 'waited_until', ARGV[3])
end

-- Whether any of these messages lives and, if an id is given, is held by that claim.
local function any_lives(numbers, claim_id)
  local states = call('HMGET', PREFIX .. 'states', unpack(numbers))
  for place = 1, #states do
    local state = states[place]
    if state and unpack_struct(STATE, state) > now and (not claim_id or sub(state, HEAD_OF_STATE + 1) == claim_id) then
      return true
    end
  end
  return false
end

local function holds_any(claim_id)
  local numbers = {}
  local packed = call('HGET', PREFIX .. 'claims', claim_id) or ''
  for number in string.gmatch(sub(packed, HEAD_OF_CLAIM + 1), '%d+') do
    numbers[#numbers + 1] = number
    if #numbers == LOOKS then
      left = left - LOOKS
      if left <= 0 or any_lives(numbers, claim_id) then
        return true
      end
      numbers = {}
    end
  end
  left = left - #numbers
  return #numbers > 0 and (left <= 0 or any_lives(numbers, claim_id))
end

-- The end of the first claim that holds a message, among those that end in this range.
local function first_end(from, to)
  local ends = call('ZRANGEBYSCORE', PREFIX .. 'claim_ends', from, to, 'WITHSCORES', 'LIMIT', 0, LOOKS)
  for at = 1, #ends, 2 do
    if holds_any(ends[at]) then
      return ends[at + 1]
    end
  end
  return #ends == 2 * LOOKS and ends[#ends]
end

local after = '(' .. ARGV[2]
local is_free = #call('ZRANGEBYSCORE', PREFIX .. 'expiry', after, '+inf', 'LIMIT', 0, 1) > 0
local next_due = call('ZRANGEBYSCORE', PREFIX .. 'due', after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or false
if not is_free then
  local due = call('ZRANGEBYSCORE', PREFIX .. 'due', '-inf', now, 'LIMIT', 0, LOOKS)
  is_free = #due == LOOKS or (#due > 0 and any_lives(due))
end
if call('EXISTS', PREFIX .. 'claimed') == 1 then
  is_free = is_free or first_end('-inf', now)
  local claim_ends = first_end(after, '+inf')
  if claim_ends and (not next_due or tonumber(claim_ends) < tonumber(next_due)) then
    next_due = claim_ends
  end
end
return { fence[2], is_free and 1 or 0, next_due }
