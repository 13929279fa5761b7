-- include: keys fence timers states ripen
-- ARGV: generation, now, claim id
local packed = call('HGET', CLAIMS, ARGV[3])
if not packed then
  return 0
end
free(ARGV[3], packed)
return 1
