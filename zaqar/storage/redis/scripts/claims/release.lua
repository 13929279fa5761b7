-- End a claim; its messages become READY at once.
-- KEYS: see queue_keys. ARGV: generation, now, claim id. Reply: 1, or 0 if there is no such claim.
-- Idempotent: a second run finds no claim. A message that another claim took meanwhile does not name this claim, and is left alone.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
local packed = call('HGET', PREFIX .. 'claims', ARGV[3])
if not packed then
  return 0
end
local removed = 0
-- include: note_expired
-- include: free_messages
if end_claim(ARGV[3], packed) > 0 then
  -- include: wake_clients
end
return 1
