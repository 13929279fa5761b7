-- Remove what is dead of a queue that the agenda names, and put the queue there by the next time.
-- KEYS: see queue_keys. ARGV: generation (ignored), now, limit.
-- Reply: how many records were removed, and how many expired messages since the last sweep of the queue, by this script or another.
-- Each run removes or moves something, or the agenda has the queue at a later time; so a sweep that repeats it ends. A run that is
-- repeated, or that a second sweep makes, finds the rest.
-- include: queue_keys
-- include: store_keys
-- include: read_fence
-- include: timers
-- include: message_formats
-- include: promote_due
local tombstone_ends = tonumber(call('HGET', FENCE, 'tombstone_until'))
if tombstone_ends then
  if tombstone_ends <= now then
    call('DEL', FENCE)
    call('ZREM', AGENDA, UID)
    return { 1, 0 }
  end
  call('ZREM', AGENDA, UID) -- a server without free memory lets a script go on that began with a removal
  call('ZADD', AGENDA, tombstone_ends, UID)
  return { 0, 0 }
elseif not fence[1] then
  call('ZREM', AGENDA, UID)
  return { 0, 0 }
end

-- The count is told once: it leaves the fence in the script that replies it.
local function reply_with(count)
  local expired = tonumber(call('HGET', FENCE, 'expired')) or 0
  if expired > 0 then
    call('HDEL', FENCE, 'expired')
  end
  return { count, expired }
end

local limit = tonumber(ARGV[3])
if not promote_due(limit) then
  return reply_with(removed)
end
-- include: clear_expired
if removed < limit then
  removed = removed + clear_expired(limit - removed)
end
if call('EXISTS', PREFIX .. 'expired') == 1 then
  return reply_with(removed)
end
local forgotten = call('ZRANGEBYSCORE', PREFIX .. 'received', '-inf', now, 'LIMIT', 0, min(limit, CHUNK))
if #forgotten > 0 then
  call('ZREM', PREFIX .. 'received', unpack(forgotten))
end
-- Nothing is due any more, so the agenda may have the exact next time, which may be later than the lower bound.
local next_time = huge
for _, word in ipairs({ 'claim_ends', 'due', 'expiry', 'received' }) do
  next_time = min(next_time, tonumber(call('ZRANGE', PREFIX .. word, 0, 0, 'WITHSCORES')[2]) or huge)
end
-- HDEL must be the first write if nothing was removed: a server without free memory lets a script go on that began so.
call('HDEL', FENCE, 'agenda_from')
if next_time < huge then
  call('HSET', FENCE, 'agenda_from', next_time)
  call('ZADD', AGENDA, next_time, UID)
else
  call('ZREM', AGENDA, UID)
end
return reply_with(removed + #forgotten)
