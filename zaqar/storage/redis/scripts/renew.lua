-- include: keys fence timers states
-- ARGV: generation, now, claim id, new ttl or '', new grace or ''
local claim_id = ARGV[3]
local packed = call('HGET', CLAIMS, claim_id)
if not packed then
  return ABSENT
end
local started, ttl, grace = struct.unpack('<dI4I4', packed)
if started + ttl <= now then
  return ABSENT
end
ttl = tonumber(ARGV[4]) or ttl
grace = tonumber(ARGV[5]) or grace
local ends = now + ttl
local leased = {}
each_held(claim_id, packed, function(number, state)
  local expires, count = life_of(nil, state)
  leased[#leased + 1] = number
  leased[#leased + 1] = state_of(math.max(expires, ends + grace), ends, count, claim_id)
end)
many('HSET', STATES, leased)
call('HSET', CLAIMS, claim_id, struct.pack('<dI4I4', now, ttl, grace) .. sub(packed, 17))
call('ZADD', ENDS, ends, claim_id)
note(ends)
return 1
