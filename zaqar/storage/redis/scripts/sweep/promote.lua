-- Promote what is due in a queue, for any generation.
-- KEYS: see queue_keys. ARGV: generation (ignored), now. Reply: 1, or MORE_IS_DUE. Idempotent, see promote_due.
-- include: queue_keys
-- include: read_fence
-- include: timers
-- include: message_formats
-- include: promote_due
if not fence[1] or promote_due(BATCH) then
  return 1
end
return MORE_IS_DUE
