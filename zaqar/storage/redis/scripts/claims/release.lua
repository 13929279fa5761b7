-- include: keys
-- include: fence
-- include: timers
-- include: states
-- ARGV: generation, now, claim id
local packed = call('HGET', PREFIX .. 'k', ARGV[3])
if not packed then
  return 0
end
local removed = 0
-- include: free
if free(ARGV[3], packed) > 0 then
  -- include: wake
end
return 1
