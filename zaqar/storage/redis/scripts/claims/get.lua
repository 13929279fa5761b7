-- Read a live claim and the messages that it holds.
-- KEYS: see queue_keys. ARGV: generation, now, claim id.
-- Reply: the claim, then number, record and state of each message; or NO_CLAIM. It only reads.
-- include: queue_keys
-- include: check_fence
-- include: message_formats
-- include: held_by_claim
-- include: add_rows
local packed = call('HGET', PREFIX .. 'claims', ARGV[3])
if not packed then
  return NO_CLAIM
end
local started, ttl = unpack_struct(CLAIM, packed)
if started + ttl <= now then
  return NO_CLAIM
end
return add_rows({ sub(packed, 1, HEAD_OF_CLAIM) }, (held_by_claim(ARGV[3], packed)))
