-- Store a delivery, in place of one with the same id.
-- KEYS: see outbox_keys. ARGV: id, record, state. Reply: 1, or 0 if the queue or the subscription was dropped. Idempotent.
-- include: outbox_keys
-- include: subscription_backlog
if call('HEXISTS', FENCE, 'tombstone_until') == 1 or is_dropped((split(ARGV[1]))) then
  return 0
end
local before = call('HGET', PREFIX .. 'delivery_states', ARGV[1])
if before then
  local code, due = read(before)
  take_out(ARGV[1], code, due)
end
call('HSET', PREFIX .. 'delivery_records', ARGV[1], ARGV[2])
put_in(ARGV[1], ARGV[3])
place_all()
return 1
