-- Lease the first free messages of a queue to a new claim.
-- KEYS: see queue_keys; outside of a Cluster KEYS[2] may be the fence of the dead letter queue. In a Cluster only this queue can be
-- its own one, because another queue is in another slot.
-- ARGV: generation, now, limit, claim id, end of the claim, end plus grace, the claim packed. If exhausted messages matter: number of
-- claims after which a message is exhausted, and what becomes of it, see move_to_dead_letter_queue.
-- Reply: how many messages were moved, then number, record and state of each leased one. MORE_IS_DUE and how many were moved, if more
-- have to be moved first; HAS_EXHAUSTED, if the caller has to move them; then nothing was leased. STALE_DEAD_LETTER_QUEUE if the
-- generation of that queue is another, then nothing was changed but what was due.
-- The messages leave `ready` in the same script in which they get the claim id, so a second caller gets the messages after these. A
-- second run would lease others, so it is never sent again after a lost answer; the lost claim ends by itself.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: call_in_chunks
-- include: add_rows
local limit, claim_id, ends, until_grace = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
-- include: promote_first

local usable
local moved = 0
if ARGV[8] then
  -- include: move_to_dead_letter_queue
else
  usable = call('ZRANGE', PREFIX .. 'ready', 0, limit - 1)
end
if #usable == 0 then
  return { moved }
end

local reply = add_rows({ moved }, usable)
local leased, claimed = {}, {}
for at = 2, 3 * #usable + 1, 3 do
  local number, state, expires, count, _ = reply[at], reply[at + 2], nil, 0, nil
  if state then
    expires, _, count = unpack_struct(STATE, state)
  else
    _, expires = unpack_struct('<dd', reply[at + 1])
  end
  if expires < until_grace then
    expires = until_grace
  end
  state = pack_struct(STATE, expires, ends, count + 1) .. claim_id
  reply[at + 2] = state
  leased[#leased + 1] = number
  leased[#leased + 1] = state
  claimed[#claimed + 1] = number
  claimed[#claimed + 1] = number
end
-- The removals come first: a server without free memory refuses a script whose first write may need some, and lets a script go on
-- that began with a removal.
call_in_chunks('ZREM', PREFIX .. 'ready', usable)
call_in_chunks('ZREM', PREFIX .. 'expiry', usable)
call_in_chunks('ZADD', PREFIX .. 'claimed', claimed)
call_in_chunks('HSET', PREFIX .. 'states', leased)
call('HSET', PREFIX .. 'claims', claim_id, ARGV[7] .. table.concat(usable, ','))
call('ZADD', PREFIX .. 'claim_ends', ends, claim_id)
local first = ends
-- include: schedule
return reply
