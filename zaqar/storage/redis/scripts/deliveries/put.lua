-- include: outbox_keys
-- include: lanes
-- ARGV: id, record, state. Answers whether it is stored, which it is not if the queue or the subscription was dropped.
if call('HEXISTS', FENCE, 't') == 1 or is_dropped((split(ARGV[1]))) then
  return 0
end
local before = call('HGET', PREFIX .. 'g', ARGV[1])
if before then
  local letter, due = read(before)
  take_out(ARGV[1], letter, due)
end
call('HSET', PREFIX .. 'b', ARGV[1], ARGV[2])
put_in(ARGV[1], ARGV[3])
place()
return 1
