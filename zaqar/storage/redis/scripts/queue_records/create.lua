-- Insert the record of a queue, unless the name is taken.
-- KEYS: see queue_record_keys. ARGV: name, record, pool or ''. Reply: the record that is in place then.
-- Idempotent. Of two callers with the same name the second gets the record of the first.
-- include: queue_record_keys
local record = redis.call('HGET', RECORDS, ARGV[1])
if record then
  return record
end
redis.call('HSET', RECORDS, ARGV[1], ARGV[2])
redis.call('ZADD', NAMES, 0, ARGV[1])
if ARGV[3] ~= '' then
  redis.call('HINCRBY', POOLS, ARGV[3], 1)
end
return ARGV[2]
