-- include: keys
-- include: store_keys
-- ARGV: whatever, now, until when it is remembered or ''
local old_end = tonumber(call('HGET', FENCE, 't'))
-- include: clear
call('UNLINK', PREFIX .. 'v')
call('ZREM', QUEUES, UID)
if ARGV[3] == '' then
  if not old_end then
    call('DEL', FENCE)
    call('ZREM', AGENDA, UID)
  end
elseif not old_end or old_end < tonumber(ARGV[3]) then
  call('DEL', FENCE)
  call('HSET', FENCE, 't', ARGV[3])
  call('ZADD', AGENDA, ARGV[3], UID)
end
return 0
