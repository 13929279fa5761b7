-- Start a live claim anew.
-- KEYS: see queue_keys. ARGV: generation, now, claim id, new ttl or '', new grace or ''. Reply: 1, or NO_CLAIM.
-- Idempotent: a second run with the same `now` writes the same. A claim that is over can never be renewed, because another caller
-- may have its messages.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: call_in_chunks
-- include: held_by_claim
local claim_id = ARGV[3]
local packed = call('HGET', PREFIX .. 'claims', claim_id)
if not packed then
  return NO_CLAIM
end
local started, ttl, grace = unpack_struct(CLAIM, packed)
if started + ttl <= now then
  return NO_CLAIM
end
ttl = tonumber(ARGV[4]) or ttl
grace = tonumber(ARGV[5]) or grace
local ends = now + ttl
local numbers, states = held_by_claim(claim_id, packed)
local leased = {}
for place = 1, #numbers do
  local expires, _, count = unpack_struct(STATE, states[place])
  leased[2 * place - 1] = numbers[place]
  leased[2 * place] = pack_struct(STATE, math.max(expires, ends + grace), ends, count) .. claim_id
end
-- ZREM must be the first write: a server without free memory refuses a script whose first write may need some.
call('ZREM', PREFIX .. 'claim_ends', claim_id)
call_in_chunks('HSET', PREFIX .. 'states', leased)
call('HSET', PREFIX .. 'claims', claim_id, pack_struct(CLAIM, now, ttl, grace) .. sub(packed, HEAD_OF_CLAIM + 1))
call('ZADD', PREFIX .. 'claim_ends', ends, claim_id)
local first = ends
-- include: schedule
return 1
