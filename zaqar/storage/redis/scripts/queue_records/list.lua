-- Read records of queues in the order of their names.
-- KEYS: see queue_record_keys. ARGV: the name after which to begin, limit. Reply: the records. It only reads.
-- All names have the score 0, so they are in the order of their bytes, which in UTF-8 is that of their code points.
-- include: queue_record_keys
local names = redis.call('ZRANGEBYLEX', NAMES, '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local records = {}
for from = 1, #names, 1000 do
  for _, record in ipairs(redis.call('HMGET', RECORDS, unpack(names, from, math.min(from + 999, #names)))) do
    records[#records + 1] = record
  end
end
return records
