-- include: many
-- include: held
local function note(first)
  -- include: note
end

-- Make messages READY that were something else, as their states are; remove those that have expired.
local function make_ready(numbers, states)
  local ready, life, freed, gone, first = {}, {}, {}, {}, huge
  for place = 1, #numbers do
    local number = numbers[place]
    local expires, _, count = unpack_struct(STATE, states[place])
    if expires <= now then
      gone[#gone + 1] = number
    else
      ready[#ready + 1] = number
      ready[#ready + 1] = number
      life[#life + 1] = expires
      life[#life + 1] = number
      freed[#freed + 1] = number
      freed[#freed + 1] = pack_struct(STATE, expires, 0, count)
      first = min(first, expires)
    end
  end
  many('ZADD', PREFIX .. 'r', ready)
  many('ZADD', PREFIX .. 'l', life)
  many('HSET', PREFIX .. 's', freed)
  many('HDEL', PREFIX .. 'm', gone)
  many('HDEL', PREFIX .. 's', gone)
  removed = removed + #gone
  note(first)
end

-- End a claim: what it holds is READY. How many that were.
local function free(claim_id, packed)
  local numbers, states = held_by(claim_id, packed)
  if #numbers > 0 then
    many('ZREM', PREFIX .. 'c', numbers)
    make_ready(numbers, states)
  end
  call('HDEL', PREFIX .. 'k', claim_id)
  call('ZREM', PREFIX .. 'e', claim_id)
  return #numbers
end
