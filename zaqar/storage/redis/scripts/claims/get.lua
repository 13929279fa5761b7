-- include: keys
-- include: fence
-- include: states
-- include: held
-- include: rows
-- ARGV: generation, now, claim id. Answers the claim, then the rows of what it holds.
local packed = call('HGET', PREFIX .. 'k', ARGV[3])
if not packed then
  return ABSENT
end
local started, ttl = unpack_struct(CLAIM, packed)
if started + ttl <= now then
  return ABSENT
end
return add_rows({ sub(packed, 1, 16) }, (held_by(ARGV[3], packed)))
