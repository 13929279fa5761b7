-- KEYS: names, rows, counts by pool; all of one project and kind. ARGV: name, row, pool or ''
-- A row is: uid, generation, pool (percent-encoded, or '-'), a line feed, the queue as JSON. Answers the row in place.
local row = redis.call('HGET', KEYS[2], ARGV[1])
if row then
  return row
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
if ARGV[3] ~= '' then
  redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
end
return ARGV[2]
