-- include: outbox_keys
-- ARGV: lane, then letters of states. Answers how many there are of each.
local counts = {}
for at = 2, #ARGV do
  local range = ARGV[1] .. ':' .. ARGV[at]
  counts[at - 1] = call('ZLEXCOUNT', PREFIX .. 'u', '[' .. range .. ':', '(' .. range .. ';')
end
return counts
