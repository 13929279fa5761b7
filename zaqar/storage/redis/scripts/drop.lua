-- include: keys
-- ARGV: whatever, now, until when it is remembered or ''
local untils = call('HGET', FENCE, 't')
call('UNLINK', RECORDS, STATES, READY, LIFE, CLAIMED, DUE, DELAYED, CLAIMS, ENDS, ASIDE, LETTERS, RECEIVED)
call('ZREM', QUEUES, uid_of(FENCE))
if ARGV[3] == '' then
  if not untils then
    call('DEL', FENCE)
    call('ZREM', AGENDA, uid_of(FENCE))
  end
elseif not untils or tonumber(untils) < tonumber(ARGV[3]) then
  call('DEL', FENCE)
  call('HSET', FENCE, 't', ARGV[3])
  call('ZADD', AGENDA, ARGV[3], uid_of(FENCE))
end
return 0
