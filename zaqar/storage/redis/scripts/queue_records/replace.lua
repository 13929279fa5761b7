-- Replace the record of a queue.
-- KEYS: see queue_record_keys. ARGV: name, record, pool or '-', the uid and the generation that have to be in place.
-- Reply: 1, or 0 if they are not. Of two callers that have read the same generation one succeeds.
-- If the first answer was lost, a second run would reply 0, so it is not sent again.
-- include: queue_record_keys
local record = redis.call('HGET', RECORDS, ARGV[1])
if not record then
  return 0
end
local uid, generation, pool = parts_of(record)
if uid ~= ARGV[4] or generation ~= ARGV[5] then
  return 0
end
redis.call('HSET', RECORDS, ARGV[1], ARGV[2])
if pool ~= ARGV[3] then
  count_on_pool(pool, -1)
  count_on_pool(ARGV[3], 1)
end
return 1
