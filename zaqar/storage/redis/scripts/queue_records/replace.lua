-- include: queue_parts
-- KEYS as in queue_create. ARGV: name, row, pool or '-', the uid and the generation that have to be in place
local row = redis.call('HGET', KEYS[2], ARGV[1])
if not row then
  return 0
end
local uid, generation, pool = parts_of(row)
if uid ~= ARGV[4] or generation ~= ARGV[5] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if pool ~= ARGV[3] then
  count(pool, -1)
  count(ARGV[3], 1)
end
return 1
