-- include: outbox_keys
-- include: lanes
-- ARGV: id, record, state
local before = call('HGET', PREFIX .. 'g', ARGV[1])
if before then
  local letter, due = read(before)
  take_out(ARGV[1], letter, due)
end
call('HSET', PREFIX .. 'b', ARGV[1], ARGV[2])
put_in(ARGV[1], ARGV[3])
place()
return 1
