-- include: queue_parts
-- KEYS as in queue_create. ARGV: name, uid
local row = redis.call('HGET', KEYS[2], ARGV[1])
if not row then
  return 0
end
local uid, _, pool = parts_of(row)
if uid ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
count(pool, -1)
return 1
