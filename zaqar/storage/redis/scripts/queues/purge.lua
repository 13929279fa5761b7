-- Remove all messages and claims of a queue.
-- KEYS, ARGV: see queue_keys. Reply: 0.
-- Each key is taken away in one step. The key `received` stays: a dead letter that came before must not come again. So does the last
-- number of the fence: numbers are never given twice. Idempotent; a claim of a second caller finds no message.
-- include: queue_keys
-- include: check_fence
-- include: clear_messages
return 0
