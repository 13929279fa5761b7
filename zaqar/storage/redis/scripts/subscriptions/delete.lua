-- Remove a subscription, expired or not.
-- KEYS: see subscription_keys. ARGV: id, and the version that has to be in place, or '' for any. Reply: the record that was removed, or
-- nil. To run it again is harmless; if the first answer was lost, the second one is nil.
-- include: subscription_keys
local record = redis.call('HGET', RECORDS, ARGV[1])
if not record then
  return false
end
local version, _, subscriber = parts_of(record)
if ARGV[2] ~= '' and version ~= ARGV[2] then
  return false
end
release_subscriber(ARGV[1], subscriber)
redis.call('HDEL', RECORDS, ARGV[1])
redis.call('ZREM', IDS, ARGV[1])
return record
