-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: many
-- include: held
-- ARGV: generation, now, claim id, new ttl or '', new grace or ''
local claim_id = ARGV[3]
local packed = call('HGET', PREFIX .. 'k', claim_id)
if not packed then
  return ABSENT
end
local started, ttl, grace = unpack_struct(CLAIM, packed)
if started + ttl <= now then
  return ABSENT
end
ttl = tonumber(ARGV[4]) or ttl
grace = tonumber(ARGV[5]) or grace
local ends = now + ttl
local numbers, states = held_by(claim_id, packed)
local leased = {}
for place = 1, #numbers do
  local expires, _, count = unpack_struct(STATE, states[place])
  leased[2 * place - 1] = numbers[place]
  leased[2 * place] = pack_struct(STATE, math.max(expires, ends + grace), ends, count) .. claim_id
end
-- A server that is full refuses a script whose first write adds something, and lets one go on that has removed something.
call('ZREM', PREFIX .. 'e', claim_id)
many('HSET', PREFIX .. 's', leased)
call('HSET', PREFIX .. 'k', claim_id, pack_struct(CLAIM, now, ttl, grace) .. sub(packed, 17))
call('ZADD', PREFIX .. 'e', ends, claim_id)
local first = ends
-- include: note
return 1
