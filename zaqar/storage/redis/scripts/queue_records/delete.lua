-- Remove the record of a queue, if it still has this uid.
-- KEYS: see queue_record_keys. ARGV: name, uid. Reply: 1, or 0 if it has not. Idempotent.
-- include: queue_record_keys
local record = redis.call('HGET', RECORDS, ARGV[1])
if not record then
  return 0
end
local uid, _, pool = parts_of(record)
if uid ~= ARGV[2] then
  return 0
end
redis.call('HDEL', RECORDS, ARGV[1])
redis.call('ZREM', NAMES, ARGV[1])
count_on_pool(pool, -1)
return 1
