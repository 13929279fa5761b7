-- Count the deliveries of a subscription by state.
-- KEYS: see outbox_keys. ARGV: subscription, then codes of states. Reply: how many there are of each. It only reads.
-- include: outbox_keys
local counts = {}
for at = 2, #ARGV do
  local range = ARGV[1] .. ':' .. ARGV[at]
  counts[at - 1] = call('ZLEXCOUNT', PREFIX .. 'deliveries_by_state', '[' .. range .. ':', '(' .. range .. ';')
end
return counts
