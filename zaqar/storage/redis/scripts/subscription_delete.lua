-- include: subscription_keys
-- ARGV: id. Answers its row, or nothing.
local row = redis.call('HGET', KEYS[2], ARGV[1])
if not row then
  return false
end
local _, _, subscriber = parts_of(row)
give_up(ARGV[1], subscriber)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return row
