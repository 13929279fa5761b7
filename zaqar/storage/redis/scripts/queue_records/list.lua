-- KEYS as in queue_create. ARGV: name to go on after, limit. Names all have the score 0, so they are in the order of their bytes,
-- which in UTF-8 is that of their code points.
local names = redis.call('ZRANGEBYLEX', KEYS[1], '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local rows = {}
for from = 1, #names, 1000 do
  for _, row in ipairs(redis.call('HMGET', KEYS[2], unpack(names, from, math.min(from + 999, #names)))) do
    rows[#rows + 1] = row
  end
end
return rows
