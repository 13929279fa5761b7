-- Add an entry to indexes of subscriptions.
-- KEYS: the indexes. ARGV: when the subscription expires, the entry. Reply: in how many it is new. Idempotent.
-- It is a script and no plain command, so that it waits for replicas like the subscription, see common/add_members.
local new = 0
for _, key in ipairs(KEYS) do
  new = new + redis.call('ZADD', key, ARGV[1], ARGV[2])
end
return new
