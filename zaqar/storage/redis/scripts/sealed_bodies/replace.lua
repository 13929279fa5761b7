-- KEYS[1] is a hash of records. ARGV: the field, the record that is expected there, and the one to put in its place.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
