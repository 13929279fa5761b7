-- include: call_in_chunks
-- include: held_by_claim
local function schedule(first)
  -- include: schedule
end

-- Make messages READY that were claimed or delayed; remove those that have expired.
local function make_ready(numbers, states)
  local ready, expiry, freed, gone, first = {}, {}, {}, {}, huge
  for place = 1, #numbers do
    local number = numbers[place]
    local expires, _, count = unpack_struct(STATE, states[place])
    if expires <= now then
      gone[#gone + 1] = number
    else
      ready[#ready + 1] = number
      ready[#ready + 1] = number
      expiry[#expiry + 1] = expires
      expiry[#expiry + 1] = number
      freed[#freed + 1] = number
      freed[#freed + 1] = pack_struct(STATE, expires, 0, count)
      first = min(first, expires)
    end
  end
  call_in_chunks('ZADD', PREFIX .. 'ready', ready)
  call_in_chunks('ZADD', PREFIX .. 'expiry', expiry)
  call_in_chunks('HSET', PREFIX .. 'states', freed)
  call_in_chunks('HDEL', PREFIX .. 'messages', gone)
  call_in_chunks('HDEL', PREFIX .. 'states', gone)
  removed = removed + #gone
  note_expired(#gone)
  schedule(first)
end

-- End a claim: the messages that it holds become READY. Returns how many these were.
local function end_claim(claim_id, packed)
  local numbers, states = held_by_claim(claim_id, packed)
  if #numbers > 0 then
    call_in_chunks('ZREM', PREFIX .. 'claimed', numbers)
    make_ready(numbers, states)
  end
  call('HDEL', PREFIX .. 'claims', claim_id)
  call('ZREM', PREFIX .. 'claim_ends', claim_id)
  return #numbers
end
