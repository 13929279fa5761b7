-- include: keys fence timers states ripen append first_free
-- ARGV: generation, now, limit, claim id, end of the claim, end plus grace, the claim packed; with dead letters also the number
-- of claims that wears a message out, and what becomes of those: nothing for passing them over; 'tell' for answering WORN_OUT
-- when there are some, or some set aside; or the generation of their queue, the name of this one, and when they expire there
-- ('' where they keep their own end).
-- KEYS behind those of the queue: fence, records, ready, life of the dead letter queue.
local limit, claim_id, ends, until_grace = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local worn_out = tonumber(ARGV[8])
if not settle(BATCH) then
  return AGAIN
end

-- Lower the bounds of another queue, or of this one under its second name.
local function note_in(fence_key, moment)
  local bounds = call('HMGET', fence_key, 'a', 'b')
  if moment < (tonumber(bounds[1]) or huge) then
    call('HSET', fence_key, 'a', moment)
  end
  if moment < (tonumber(bounds[2]) or huge) then
    call('HSET', fence_key, 'b', moment)
    call('ZADD', AGENDA, moment, uid_of(fence_key))
  end
  if fence_key == FENCE then
    due_from, on_agenda = min(due_from, moment), min(on_agenda, moment)
  end
end

-- Move worn-out messages to the end of the dead letter queue. Nothing is written unless its fence is as it should be.
local function bury(dead)
  local fence_key, new_expires = KEYS[16], ARGV[11]
  local grave = call('HMGET', fence_key, 'g', 'n')
  if grave[1] ~= ARGV[9] then
    return false
  end
  local rows, records, lives, first = add_rows({}, dead), {}, {}, huge
  for at = 1, #rows, 3 do
    local record = rows[at + 1]
    local created, _, client, checksum, origin = struct.unpack(RECORD, record)
    local expires, count = life_of(record, rows[at + 2])
    if new_expires ~= '' then
      created, expires = now, tonumber(new_expires)
    end
    local from = struct.pack('<I4', count) .. uid_of(FENCE) .. format('%012x', rows[at]) .. ARGV[10]
    local named = 28 + client + checksum
    records[#records + 1] = struct.pack(RECORD, created, expires, client, checksum, #from)
      .. sub(record, 29, named) .. from .. sub(record, named + origin + 1)
    lives[#lives + 1] = expires
    first = min(first, expires)
  end
  many('ZREM', READY, dead)
  many('ZREM', LIFE, dead)
  many('HDEL', RECORDS, dead)
  many('HDEL', STATES, dead)
  append(fence_key, KEYS[17], KEYS[18], KEYS[19], tonumber(grave[2]), records, lives)
  note_in(fence_key, first)
  return true
end

local living
if worn_out then
  local dead
  living, dead = first_free(limit, worn_out, ARGV[9] and BATCH or huge)
  if ARGV[9] == 'tell' then
    if #dead > 0 or call('EXISTS', ASIDE) == 1 then
      return WORN_OUT
    end
  elseif ARGV[9] and #dead > 0 then
    if not bury(dead) then
      return STALE_GRAVE
    elseif #dead == BATCH and #living < limit then
      return AGAIN
    end
  end
else
  living = call('ZRANGE', READY, 0, limit - 1)
end
if #living == 0 then
  return { false }
end

local reply = add_rows({ false }, living)
local leased, claimed = {}, {}
for at = 2, #reply, 3 do
  local number = reply[at]
  local expires, count = life_of(reply[at + 1], reply[at + 2])
  if expires < until_grace then
    expires = until_grace
  end
  local state = state_of(expires, ends, count + 1, claim_id)
  reply[at + 2] = state
  leased[#leased + 1] = number
  leased[#leased + 1] = state
  claimed[#claimed + 1] = number
  claimed[#claimed + 1] = number
end
many('ZREM', READY, living)
many('ZREM', LIFE, living)
many('ZADD', CLAIMED, claimed)
many('HSET', STATES, leased)
call('HSET', CLAIMS, claim_id, ARGV[7] .. table.concat(living, ','))
call('ZADD', ENDS, ends, claim_id)
note(ends)
return reply
