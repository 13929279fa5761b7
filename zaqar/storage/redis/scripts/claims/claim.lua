-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: many
-- include: rows
-- include: ripen
-- ARGV: generation, now, limit, claim id, end of the claim, end plus grace, the claim packed; with dead letters also the number
-- of claims that wears a message out, and what becomes of those: nothing for passing them over; 'tell' for answering WORN_OUT
-- when there are some; or the generation of their queue, the name of this one, and when they expire there ('' where they keep
-- their own end). Unless they are passed over the answer is WORN_OUT as well where some are set aside.
-- KEYS[2], outside of a Cluster, is the fence of the dead letter queue. In a Cluster it can only be this one.
local limit, claim_id, ends, until_grace = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if not settle(BATCH) then
  return AGAIN
end

local living
if ARGV[8] then
  -- include: bury
else
  living = call('ZRANGE', PREFIX .. 'r', 0, limit - 1)
end
if #living == 0 then
  return { false }
end

local reply = add_rows({ false }, living)
local leased, claimed = {}, {}
for at = 2, 3 * #living + 1, 3 do
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
many('ZREM', PREFIX .. 'r', living)
many('ZREM', PREFIX .. 'l', living)
many('ZADD', PREFIX .. 'c', claimed)
many('HSET', PREFIX .. 's', leased)
call('HSET', PREFIX .. 'k', claim_id, ARGV[7] .. table.concat(living, ','))
call('ZADD', PREFIX .. 'e', ends, claim_id)
local first = ends
-- include: note
return reply
