-- Remove everything of a queue and leave a tombstone.
-- KEYS: see queue_keys; in a Cluster KEYS[17] to KEYS[33] are those of outbox_keys.
-- ARGV: generation (ignored), now, until when the tombstone stays or '' for none. Reply: 0.
-- However much the queue has, each of its keys is taken away in one step. From then on each operation replies STALE, because there is
-- no generation, and nothing is stored of it, because of the tombstone. Idempotent: a tombstone only becomes longer.
-- include: queue_keys
-- include: store_keys
-- include: dropped_queue_keys
local old_end = tonumber(call('HGET', FENCE, 'tombstone_until'))
-- include: clear_messages
call('UNLINK', PREFIX .. 'received')
call('ZREM', QUEUES, UID)
if ARGV[3] == '' then
  -- For a queue that never had a delivery, so the outbox is empty.
  if not old_end then
    call('DEL', FENCE)
    call('ZREM', AGENDA, UID)
  end
else
  -- include: clear_outbox
end
if ARGV[3] ~= '' and (not old_end or old_end < tonumber(ARGV[3])) then
  call('DEL', FENCE)
  call('HSET', FENCE, 'tombstone_until', ARGV[3])
  call('ZADD', AGENDA, ARGV[3], UID)
end
return 0
