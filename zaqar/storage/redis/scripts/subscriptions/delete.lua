-- include: subscription_keys
-- ARGV: id, and the version that has to be in place, or '' for any. Answers the row that was removed, or nothing.
local row = redis.call('HGET', KEYS[2], ARGV[1])
if not row then
  return false
end
local version, _, subscriber = parts_of(row)
if ARGV[2] ~= '' and version ~= ARGV[2] then
  return false
end
give_up(ARGV[1], subscriber)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return row
