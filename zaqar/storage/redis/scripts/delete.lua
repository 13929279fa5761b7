-- include: keys fence states
-- ARGV: generation, now, number, claim id (or no more)
local number, claim_id = ARGV[3], ARGV[4]

local state = call('HGET', STATES, number)
if not state then
  -- Never claimed and not delayed, so READY: its life is in the index.
  local expires = tonumber(call('ZSCORE', LIFE, number))
  if not expires or expires <= now then
    return 0
  end
  if claim_id then
    return OVER
  end
  call('ZREM', READY, number)
  call('ZREM', LIFE, number)
  call('HDEL', RECORDS, number)
  return 1
end

local expires, ends = struct.unpack(STATE, state)
if expires <= now then
  return 0
end
local by = holder(state)
local is_held = by ~= '' and now < ends
if claim_id then
  if not is_held then
    return OVER
  elseif by ~= claim_id then
    local packed = call('HGET', CLAIMS, claim_id)
    if not packed then
      return OVER
    end
    local started, ttl = struct.unpack('<dI4', packed)
    return now < started + ttl and HELD or OVER
  end
elseif is_held then
  return HELD
end
if by ~= '' then
  call('ZREM', CLAIMED, number)
elseif call('ZREM', READY, number) == 1 then
  call('ZREM', LIFE, number)
else
  call('ZREM', DELAYED, number)
  call('ZREM', DUE, number)
end
call('HDEL', RECORDS, number)
call('HDEL', STATES, number)
return 1
