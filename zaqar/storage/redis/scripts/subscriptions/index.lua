-- Add an entry to the index of all subscriptions.
-- KEYS: the index. ARGV: when the subscription expires, the entry. Reply: 1 if it is new. Idempotent.
-- It is a script and no plain command, so that it waits for replicas like the subscription, see common/add_members.
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
