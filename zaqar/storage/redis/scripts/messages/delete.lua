-- include: keys
-- include: fence
-- include: states
-- ARGV: generation, now, number, claim id (or no more)
local number, claim_id = ARGV[3], ARGV[4]

local state = call('HGET', PREFIX .. 's', number)
if not state then
  -- Never claimed and not delayed, so READY: its life is in the index.
  local expires = tonumber(call('ZSCORE', PREFIX .. 'l', number))
  if not expires or expires <= now then
    return 0
  end
  if claim_id then
    return OVER
  end
  call('ZREM', PREFIX .. 'r', number)
  call('ZREM', PREFIX .. 'l', number)
  call('HDEL', PREFIX .. 'm', number)
  return 1
end

local expires, ends = unpack_struct(STATE, state)
if expires <= now then
  return 0
end
local holder = sub(state, 21)
local is_held = holder ~= '' and now < ends
if claim_id then
  if not is_held then
    return OVER
  elseif holder ~= claim_id then
    local packed = call('HGET', PREFIX .. 'k', claim_id)
    if not packed then
      return OVER
    end
    local started, ttl = unpack_struct(CLAIM, packed)
    return now < started + ttl and HELD or OVER
  end
elseif is_held then
  return HELD
end
if holder ~= '' then
  call('ZREM', PREFIX .. 'c', number)
elseif call('ZREM', PREFIX .. 'r', number) == 1 then
  call('ZREM', PREFIX .. 'l', number)
else
  call('ZREM', PREFIX .. 'o', number)
  call('ZREM', PREFIX .. 'd', number)
end
call('HDEL', PREFIX .. 'm', number)
call('HDEL', PREFIX .. 's', number)
return 1
