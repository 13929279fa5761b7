-- Write the record of a trust if the one in place is due at an expected time.
-- KEYS: see trust_keys. ARGV: id, record, the expected time. Reply: 1, or 0 if it is due at another time or absent.
-- Of two callers that have read the same record one succeeds, and none overwrites a later `hasten`. If the first answer was lost, a
-- second run would reply 0, so it is not sent again.
-- include: trust_keys
local there = redis.call('HGET', RECORDS, ARGV[1])
if not there or (parts_of(there)) ~= ARGV[3] then
  return 0
end
put(ARGV[1], ARGV[2])
return 1
