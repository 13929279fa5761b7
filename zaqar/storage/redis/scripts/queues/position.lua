-- include: keys
-- include: states
-- ARGV: whatever, now, until when somebody counts as waiting for the queue, and how far such a note has to reach to be left as it is.
-- Answers the last number, 1 if a message is free, and when the next claim or delay ends; or nothing if there is no such queue.
-- Beside the note it changes nothing: messages and claims that are due stay where they are. Where very many are dead and nobody
-- has removed them, a message may count as free, and a claim as holding one.
local LOOK = 100 -- claims, or messages of one command, that are looked at at most
local left = 10 * LOOK -- messages of claims that are looked at at most
local fence = call('HMGET', FENCE, 'g', 'n', 'w')
if not fence[1] then
  return false
end
if (tonumber(fence[3]) or 0) < tonumber(ARGV[4]) then
  -- A server without free memory refuses a script whose first change may need some, so that one comes second.
  call('HDEL', FENCE, 'w')
  call('HSET', FENCE, 'w', ARGV[3])
end

-- Whether any of these messages lives and, if an id is given, is under that claim.
local function any_lives(numbers, claim_id)
  local states = call('HMGET', PREFIX .. 's', unpack(numbers))
  for place = 1, #states do
    local state = states[place]
    if state and unpack_struct(STATE, state) > now and (not claim_id or sub(state, 21) == claim_id) then
      return true
    end
  end
  return false
end

local function holds_any(claim_id)
  local numbers = {}
  for number in string.gmatch(sub(call('HGET', PREFIX .. 'k', claim_id) or '', 17), '%d+') do
    numbers[#numbers + 1] = number
    if #numbers == LOOK then
      left = left - LOOK
      if left <= 0 or any_lives(numbers, claim_id) then
        return true
      end
      numbers = {}
    end
  end
  left = left - #numbers
  return #numbers > 0 and (left <= 0 or any_lives(numbers, claim_id))
end

-- The end of the first claim in a range of ends that holds a message.
local function first_end(from, to)
  local ends = call('ZRANGEBYSCORE', PREFIX .. 'e', from, to, 'WITHSCORES', 'LIMIT', 0, LOOK)
  for at = 1, #ends, 2 do
    if holds_any(ends[at]) then
      return ends[at + 1]
    end
  end
  return #ends == 2 * LOOK and ends[#ends]
end

local after = '(' .. ARGV[2]
local is_free = #call('ZRANGEBYSCORE', PREFIX .. 'l', after, '+inf', 'LIMIT', 0, 1) > 0
local next_due = call('ZRANGEBYSCORE', PREFIX .. 'd', after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or false
if not is_free then
  local due = call('ZRANGEBYSCORE', PREFIX .. 'd', '-inf', now, 'LIMIT', 0, LOOK)
  is_free = #due == LOOK or (#due > 0 and any_lives(due))
end
if call('EXISTS', PREFIX .. 'c') == 1 then
  is_free = is_free or first_end('-inf', now)
  local claim_ends = first_end(after, '+inf')
  if claim_ends and (not next_due or tonumber(claim_ends) < tonumber(next_due)) then
    next_due = claim_ends
  end
end
return { fence[2], is_free and 1 or 0, next_due }
