-- Replace a record if it is still the expected one.
-- KEYS: a hash of records. ARGV: field, expected record, new record. Reply: 1, or 0 if another record, or none, is there.
-- The comparison and the write are one step, so a message that was deleted or replaced meanwhile does not come back.
-- If the first answer was lost, a second run may reply 0 although the first one has replaced it.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
