-- Remove all subscriptions of a queue.
-- KEYS: see subscription_keys. Reply: the records that were there. Idempotent.
-- include: subscription_keys
local records = redis.call('HVALS', RECORDS)
redis.call('DEL', IDS)
redis.call('DEL', RECORDS)
redis.call('DEL', SUBSCRIBERS)
return records
