local removed = 0 -- dead records that are gone for good: messages and claims

-- Bring at most `most` messages and claims that are due to their places. True when nothing is due any more, so that READY and
-- CLAIMED hold exactly what is so at `now`. What was moved is moved for good, so a caller that is told AGAIN just calls again.
local function settle(most)
  if now < due_from then
    return true
  end
  -- The rest is made only when it is needed.
  -- include: free
  local READY, LIFE, DUE, ENDS = PREFIX .. 'r', PREFIX .. 'l', PREFIX .. 'd', PREFIX .. 'e'
  local left = most

  local function due_in(key)
    if left <= 0 then
      return {}
    end
    return call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, min(left, CHUNK))
  end

  local over = due_in(ENDS)
  while #over > 0 do
    local claims = call('HMGET', PREFIX .. 'k', unpack(over))
    for place = 1, #over do
      if left > 0 then
        left = left - 1 - free(over[place], claims[place] or '')
        removed = removed + 1
      end
    end
    over = due_in(ENDS)
  end

  local due = due_in(DUE)
  while #due > 0 do
    call('ZREM', DUE, unpack(due))
    call('ZREM', PREFIX .. 'o', unpack(due))
    make_ready(due, call('HMGET', PREFIX .. 's', unpack(due)))
    left = left - #due
    due = due_in(DUE)
  end

  -- Very many that have expired beside few that live: the few are put into new sets, so that nobody waits for the removal of
  -- the many. Those stay behind as a list of records to remove, at leisure; nobody sees them, for their time is over.
  -- A claim is freed whole, so `left` may be below 0.
  local expired = left > 0 and call('ZCOUNT', LIFE, '-inf', now) or 0
  if left > 0 and expired > left and call('ZCARD', LIFE) - expired <= CHUNK and call('EXISTS', PREFIX .. 'z') == 0 then
    local living, ready = call('ZRANGEBYSCORE', LIFE, '(' .. ARGV[2], '+inf', 'WITHSCORES'), {}
    local life = {}
    for at = 1, #living, 2 do
      ready[at], ready[at + 1] = living[at], living[at]
      life[at], life[at + 1] = living[at + 1], living[at]
    end
    call('RENAME', LIFE, PREFIX .. 'z')
    call('ZREMRANGEBYSCORE', PREFIX .. 'z', '(' .. ARGV[2], '+inf')
    call('UNLINK', READY)
    many('ZADD', READY, ready)
    many('ZADD', LIFE, life)
  end
  local dead = due_in(LIFE)
  while #dead > 0 do
    call('ZREM', READY, unpack(dead))
    call('ZREMRANGEBYRANK', LIFE, 0, #dead - 1)
    call('HDEL', PREFIX .. 'm', unpack(dead))
    call('HDEL', PREFIX .. 's', unpack(dead))
    removed = removed + #dead
    left = left - #dead
    dead = due_in(LIFE)
  end

  if left <= 0 then
    return false
  end
  due_from = huge
  for _, key in ipairs({ ENDS, DUE, LIFE }) do
    due_from = min(due_from, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or huge)
  end
  -- A server without free memory refuses a script whose first change may need some, so that one comes second: consumers go on.
  call('HDEL', FENCE, 'a')
  call('HSET', FENCE, 'a', due_from)
  return true
end
