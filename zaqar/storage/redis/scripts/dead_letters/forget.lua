-- Hand-over, third step: remove messages that were set aside and that the other queue has received.
-- KEYS: see queue_keys. ARGV: generation, now, the numbers. Reply: 0. Idempotent.
-- include: queue_keys
-- include: check_fence
-- include: call_in_chunks
local numbers = {}
for at = 3, #ARGV do
  numbers[at - 2] = ARGV[at]
end
call_in_chunks('ZREM', PREFIX .. 'set_aside', numbers)
call_in_chunks('HDEL', PREFIX .. 'set_aside_messages', numbers)
return 0
