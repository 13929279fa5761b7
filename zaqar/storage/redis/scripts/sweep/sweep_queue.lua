-- include: keys
-- include: store_keys
-- include: dropped_keys
-- include: any_fence
-- include: timers
-- include: states
-- include: ripen
-- ARGV: whatever, now, limit. Removes what is dead of one queue that the agenda names, and puts its next moment there.
-- Answers how many records are gone. It always gets on: it removes or moves something, or the agenda names a later moment.
local tombstone_ends = tonumber(call('HGET', FENCE, 't'))
if tombstone_ends then
  if tombstone_ends <= now then
    -- There is nothing, unless another version dropped the queue, which left its outbox.
    -- include: clear_outbox
    call('DEL', FENCE)
    call('ZREM', AGENDA, UID)
    return 1
  end
  call('ZADD', AGENDA, tombstone_ends, UID)
  return 0
elseif not fence[1] then
  call('ZREM', AGENDA, UID)
  return 0
end

local limit = tonumber(ARGV[3])
if not settle(limit) then
  return removed
end
-- include: clear_expired
if removed < limit then
  removed = removed + clear_expired(limit - removed)
end
if call('EXISTS', PREFIX .. 'z') == 1 then
  return removed
end
local forgotten = call('ZRANGEBYSCORE', PREFIX .. 'v', '-inf', now, 'LIMIT', 0, min(limit, CHUNK))
if #forgotten > 0 then
  call('ZREM', PREFIX .. 'v', unpack(forgotten))
end
local next_moment = huge
for _, letter in ipairs({ 'e', 'd', 'l', 'v' }) do
  next_moment = min(next_moment, tonumber(call('ZRANGE', PREFIX .. letter, 0, 0, 'WITHSCORES')[2]) or huge)
end
if next_moment < huge then
  call('HSET', FENCE, 'b', next_moment)
  call('ZADD', AGENDA, next_moment, UID)
else
  call('HDEL', FENCE, 'b')
  call('ZREM', AGENDA, UID)
end
return removed + #forgotten
