-- include: subscription_keys
-- ARGV: subscriber, now. Answers the row of the live one that has it, or nothing.
local _, row = live_with(ARGV[1], tonumber(ARGV[2]))
return row or false
