-- include: keys
-- include: store_keys
-- include: dropped_keys
-- ARGV: whatever, now, until when it is remembered or ''
-- However much the queue has, each of its keys is taken away in one step.
local old_end = tonumber(call('HGET', FENCE, 't'))
-- include: clear
call('UNLINK', PREFIX .. 'v')
call('ZREM', QUEUES, UID)
if ARGV[3] == '' then
  if not old_end then
    call('DEL', FENCE)
    call('ZREM', AGENDA, UID)
  end
else
  -- include: clear_outbox
end
if ARGV[3] ~= '' and (not old_end or old_end < tonumber(ARGV[3])) then
  call('DEL', FENCE)
  call('HSET', FENCE, 't', ARGV[3])
  call('ZADD', AGENDA, ARGV[3], UID)
end
return 0
