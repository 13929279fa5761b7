-- include: keys fence states
-- ARGV: generation, now, claim id. Answers the claim, then the rows of what it holds.
local packed = call('HGET', CLAIMS, ARGV[3])
if not packed then
  return ABSENT
end
local started, ttl = struct.unpack('<dI4', packed)
if started + ttl <= now then
  return ABSENT
end
local held = {}
each_held(ARGV[3], packed, function(number)
  held[#held + 1] = number
end)
return add_rows({ sub(packed, 1, 16) }, held)
