-- include: keys any_fence timers states ripen
-- ARGV: whatever, now, limit. Removes what is dead of one queue that the agenda names, and puts its next moment there.
-- Answers how many records are gone. It always gets on: it removes or moves something, or the agenda names a later moment.
local uid = uid_of(FENCE)
local untils = tonumber(call('HGET', FENCE, 't'))
if untils then
  if untils <= now then
    call('DEL', FENCE)
    call('ZREM', AGENDA, uid)
    return 1
  end
  call('ZADD', AGENDA, untils, uid)
  return 0
elseif not fence[1] then
  call('ZREM', AGENDA, uid)
  return 0
end

local limit = tonumber(ARGV[3])
if not settle(limit) then
  return removed
end
local forgotten = call('ZRANGEBYSCORE', RECEIVED, '-inf', now, 'LIMIT', 0, min(limit, CHUNK))
if #forgotten > 0 then
  call('ZREM', RECEIVED, unpack(forgotten))
end
local next_moment = min(first_of(ENDS), first_of(DUE), first_of(LIFE), first_of(RECEIVED))
if next_moment < huge then
  call('HSET', FENCE, 'b', next_moment)
  call('ZADD', AGENDA, next_moment, uid)
else
  call('HDEL', FENCE, 'b')
  call('ZREM', AGENDA, uid)
end
return removed + #forgotten
