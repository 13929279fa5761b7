-- include: trust_keys
-- ARGV: id, row, when the one in place has to be due. Answers 1, or 0 where it is due at another time or absent.
local there = redis.call('HGET', KEYS[2], ARGV[1])
if not there or (parts_of(there)) ~= ARGV[3] then
  return 0
end
put(ARGV[1], ARGV[2])
return 1
