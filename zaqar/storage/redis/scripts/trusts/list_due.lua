-- Read the trusts that are due, the longest due first.
-- KEYS: see trust_keys. ARGV: now, limit. Reply: id and record of each. It only reads.
-- include: trust_keys
local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGET', RECORDS, id)
end
return answer
