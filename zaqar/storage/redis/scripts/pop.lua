-- include: keys fence timers states ripen
-- ARGV: generation, now, limit
if not settle(BATCH) then
  return AGAIN
end
local numbers = call('ZRANGE', READY, 0, tonumber(ARGV[3]) - 1)
if #numbers == 0 then
  return { false }
end
local reply = add_rows({ false }, numbers)
call('ZREMRANGEBYRANK', READY, 0, #numbers - 1)
many('ZREM', LIFE, numbers)
many('HDEL', RECORDS, numbers)
many('HDEL', STATES, numbers)
return reply
