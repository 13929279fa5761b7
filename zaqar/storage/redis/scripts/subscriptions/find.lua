-- Find the live subscription with a subscriber.
-- KEYS: see subscription_keys. ARGV: subscriber, now. Reply: its record, or nil. It only reads.
-- include: subscription_keys
local _, record = live_with(ARGV[1], tonumber(ARGV[2]))
return record or false
