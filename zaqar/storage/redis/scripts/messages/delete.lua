-- Delete one message.
-- KEYS: see queue_keys. ARGV: generation, now, number, and the id of the claim that holds it (or no more).
-- Reply: 1, or 0 if it is absent. Without a claim id: IS_CLAIMED if it is claimed. With one: CLAIM_OVER if it is not claimed or the
-- claim is over, IS_CLAIMED if another live claim holds it.
-- All checks come before the first write. Idempotent: a second run finds it absent.
-- include: queue_keys
-- include: check_fence
-- include: message_formats
local number, claim_id = ARGV[3], ARGV[4]

local state = call('HGET', PREFIX .. 'states', number)
if not state then
  -- It was never claimed and never delayed, so it is READY, and `expiry` has the time when it expires.
  local expires = tonumber(call('ZSCORE', PREFIX .. 'expiry', number))
  if not expires or expires <= now then
    return 0
  end
  if claim_id then
    return CLAIM_OVER
  end
  call('ZREM', PREFIX .. 'ready', number)
  call('ZREM', PREFIX .. 'expiry', number)
  call('HDEL', PREFIX .. 'messages', number)
  return 1
end

local expires, ends = unpack_struct(STATE, state)
if expires <= now then
  return 0
end
local holder = sub(state, HEAD_OF_STATE + 1)
local is_held = holder ~= '' and now < ends
if claim_id then
  if not is_held then
    return CLAIM_OVER
  elseif holder ~= claim_id then
    local packed = call('HGET', PREFIX .. 'claims', claim_id)
    if not packed then
      return CLAIM_OVER
    end
    local started, ttl = unpack_struct(CLAIM, packed)
    return now < started + ttl and IS_CLAIMED or CLAIM_OVER
  end
elseif is_held then
  return IS_CLAIMED
end
if holder ~= '' then
  call('ZREM', PREFIX .. 'claimed', number)
elseif call('ZREM', PREFIX .. 'ready', number) == 1 then
  call('ZREM', PREFIX .. 'expiry', number)
else
  call('ZREM', PREFIX .. 'delayed', number)
  call('ZREM', PREFIX .. 'due', number)
end
call('HDEL', PREFIX .. 'messages', number)
call('HDEL', PREFIX .. 'states', number)
return 1
