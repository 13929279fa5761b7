-- Hand-over, first step: take exhausted messages out of a queue, and keep them beside it until the other queue has received them.
-- KEYS: see queue_keys. ARGV: generation, now, number of claims after which a message is exhausted, limit of the claim.
-- Reply: nil, then number and letter of all that are set aside, in that order. A letter is: claim count, then the record.
-- Idempotent: what an earlier run has set aside comes first, and at most BATCH are set aside at a time. So a process that finds the
-- messages of a process that crashed finishes the hand-over, and two processes hand over the same messages.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: call_in_chunks
-- include: add_rows
-- include: remove_ready
-- include: select_ready
-- include: promote_first
local already = call('ZCARD', PREFIX .. 'set_aside')
if already < BATCH then
  local _, exhausted = select_ready(tonumber(ARGV[4]), tonumber(ARGV[3]), BATCH - already)
  if #exhausted > 0 then
    local rows = add_rows({}, exhausted)
    local place = tonumber(call('ZREVRANGE', PREFIX .. 'set_aside', 0, 0, 'WITHSCORES')[2]) or 0
    local set_aside, letters = {}, {}
    for at = 1, 3 * #exhausted, 3 do
      local record = rows[at + 1]
      local expires, _, count = unpack_struct(STATE, rows[at + 2])
      place = place + 1
      set_aside[#set_aside + 1] = place
      set_aside[#set_aside + 1] = rows[at]
      letters[#letters + 1] = rows[at]
      -- The record with the time of the state in place of the one as posted.
      letters[#letters + 1] = pack_struct('<I4', count) .. sub(record, 1, 8) .. pack_struct('<d', expires) .. sub(record, 17)
    end
    call_in_chunks('ZADD', PREFIX .. 'set_aside', set_aside)
    call_in_chunks('HSET', PREFIX .. 'set_aside_messages', letters)
    remove_ready(exhausted)
  end
end
local numbers = call('ZRANGE', PREFIX .. 'set_aside', 0, BATCH - 1)
local reply = { false }
if #numbers > 0 then
  local letters = call('HMGET', PREFIX .. 'set_aside_messages', unpack(numbers))
  for place = 1, #numbers do
    reply[2 * place] = numbers[place]
    reply[2 * place + 1] = letters[place]
  end
end
return reply
