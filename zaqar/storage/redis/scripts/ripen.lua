local removed = 0 -- dead records that are gone for good: messages and claims

-- Messages that become READY, collected and written together.
local function readier()
  local ready, life, states, gone = {}, {}, {}, {}
  local first = huge
  local function add(number, expires, count)
    if expires <= now then
      gone[#gone + 1] = number
      return
    end
    ready[#ready + 1] = number
    ready[#ready + 1] = number
    life[#life + 1] = expires
    life[#life + 1] = number
    states[#states + 1] = number
    states[#states + 1] = state_of(expires, 0, count, '')
    first = min(first, expires)
  end
  local function write()
    many('ZADD', READY, ready)
    many('ZADD', LIFE, life)
    many('HSET', STATES, states)
    many('HDEL', RECORDS, gone)
    many('HDEL', STATES, gone)
    removed = removed + #gone
    if first < huge then
      note(first)
    end
  end
  return add, write
end

-- End a claim: what it holds is READY. How many that were.
local function free(claim_id, packed)
  local held = {}
  local add, write = readier()
  each_held(claim_id, packed, function(number, state)
    held[#held + 1] = number
    add(number, life_of(nil, state))
  end)
  many('ZREM', CLAIMED, held)
  write()
  call('HDEL', CLAIMS, claim_id)
  call('ZREM', ENDS, claim_id)
  return #held
end

local function end_claims(left)
  while left > 0 do
    local over = call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, min(left, 50))
    if #over == 0 then
      return left
    end
    for place = 1, #over do
      local packed = call('HGET', CLAIMS, over[place])
      left = left - 1 - free(over[place], packed or '')
      removed = removed + 1
      if left <= 0 then
        return 0
      end
    end
  end
  return left
end

local function end_delays(left)
  while left > 0 do
    local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, min(left, CHUNK))
    if #due == 0 then
      return left
    end
    local states = call('HMGET', STATES, unpack(due))
    local add, write = readier()
    for place = 1, #due do
      add(due[place], life_of(nil, states[place]))
    end
    call('ZREM', DUE, unpack(due))
    call('ZREM', DELAYED, unpack(due))
    write()
    left = left - #due
  end
  return left
end

local function end_lives(left)
  while left > 0 do
    local dead = call('ZRANGEBYSCORE', LIFE, '-inf', now, 'LIMIT', 0, min(left, CHUNK))
    if #dead == 0 then
      return left
    end
    call('ZREM', READY, unpack(dead))
    call('ZREMRANGEBYRANK', LIFE, 0, #dead - 1)
    call('HDEL', RECORDS, unpack(dead))
    call('HDEL', STATES, unpack(dead))
    removed = removed + #dead
    left = left - #dead
  end
  return left
end

local function first_of(key)
  return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or huge
end

-- Bring at most `most` messages and claims that are due to their places. True when nothing is due any more, so that READY and
-- CLAIMED hold exactly what is so at `now`. What was moved is moved for good, so a caller that is told AGAIN just calls again.
local function settle(most)
  if now < due_from then
    return true
  end
  if end_lives(end_delays(end_claims(most))) <= 0 then
    return false
  end
  due_from = min(first_of(ENDS), first_of(DUE), first_of(LIFE))
  call('HSET', FENCE, 'a', due_from)
  return true
end
