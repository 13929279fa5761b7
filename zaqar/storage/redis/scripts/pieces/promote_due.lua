local removed = 0 -- dead records that this script has removed: messages and claims
-- include: note_expired

-- Bring everything that is due at `now` to where a reader looks for it: free the messages of claims that are over, make delayed
-- messages READY, remove expired ones. At most about `most` messages and claims.
-- True if nothing is due any more. Then `ready` and `claimed` hold exactly the messages that are free and claimed at `now`.
-- False if there is more. What was promoted stays promoted, so the caller may reply MORE_IS_DUE, and be called again.
-- A second caller finds the rest, or nothing, to do: to promote a message twice is impossible, because it leaves the list of
-- what is due in the same script.
local function promote_due(most)
  if now < due_from then
    return true
  end
  -- include: free_messages
  local READY, EXPIRY, DUE, CLAIM_ENDS = PREFIX .. 'ready', PREFIX .. 'expiry', PREFIX .. 'due', PREFIX .. 'claim_ends'
  local left = most

  local function due_in(key)
    if left <= 0 then
      return {}
    end
    return call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, min(left, CHUNK))
  end

  -- 1. Claims that are over. A claim is freed as a whole, so `left` may become negative.
  local over = due_in(CLAIM_ENDS)
  while #over > 0 do
    local claims = call('HMGET', PREFIX .. 'claims', unpack(over))
    for place = 1, #over do
      if left > 0 then
        left = left - 1 - end_claim(over[place], claims[place] or '')
        removed = removed + 1
      end
    end
    over = due_in(CLAIM_ENDS)
  end

  -- 2. Delayed messages whose delay, or whose life, has ended.
  local due = due_in(DUE)
  while #due > 0 do
    call('ZREM', DUE, unpack(due))
    call('ZREM', PREFIX .. 'delayed', unpack(due))
    make_ready(due, call('HMGET', PREFIX .. 'states', unpack(due)))
    left = left - #due
    due = due_in(DUE)
  end

  -- 3. READY messages that have expired. If very many have expired and few live, it would take many scripts to remove them one
  -- batch after the other, and a reader would wait. So put the few into new sets, and rename the set of the many to `expired`.
  -- No reader sees these any more: their records are still there, but their time is over. clear_expired removes them later.
  local expired = left > 0 and call('ZCOUNT', EXPIRY, '-inf', now) or 0
  if left > 0 and expired > left and call('ZCARD', EXPIRY) - expired <= CHUNK and call('EXISTS', PREFIX .. 'expired') == 0 then
    local living, ready = call('ZRANGEBYSCORE', EXPIRY, '(' .. ARGV[2], '+inf', 'WITHSCORES'), {}
    local expiry = {}
    for at = 1, #living, 2 do
      ready[at], ready[at + 1] = living[at], living[at]
      expiry[at], expiry[at + 1] = living[at + 1], living[at]
    end
    call('RENAME', EXPIRY, PREFIX .. 'expired')
    call('ZREMRANGEBYSCORE', PREFIX .. 'expired', '(' .. ARGV[2], '+inf')
    call('UNLINK', READY)
    call_in_chunks('ZADD', READY, ready)
    call_in_chunks('ZADD', EXPIRY, expiry)
  end
  local dead = due_in(EXPIRY)
  while #dead > 0 do
    call('ZREM', READY, unpack(dead))
    call('ZREMRANGEBYRANK', EXPIRY, 0, #dead - 1)
    call('HDEL', PREFIX .. 'messages', unpack(dead))
    call('HDEL', PREFIX .. 'states', unpack(dead))
    removed = removed + #dead
    note_expired(#dead)
    left = left - #dead
    dead = due_in(EXPIRY)
  end

  if left <= 0 then
    return false
  end
  -- 4. Nothing is due any more, so the bound may rise to the next moment.
  due_from = huge
  for _, key in ipairs({ CLAIM_ENDS, DUE, EXPIRY }) do
    due_from = min(due_from, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or huge)
  end
  -- HDEL must be the first write if nothing was due: a server without free memory refuses a script whose first write may need
  -- some, and lets a script go on that began with a removal. So consumers can go on.
  call('HDEL', FENCE, 'due_from')
  call('HSET', FENCE, 'due_from', due_from)
  return true
end
