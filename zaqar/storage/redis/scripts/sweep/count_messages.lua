-- Count the messages of many queues, and find the time of the oldest one.
-- KEYS: the queues of a slot, or of the server. ARGV: now, the uid after which to begin, how many queues.
-- Reply: the uid after which to go on or nil; free, claimed and delayed messages; when the oldest free or claimed one was created, or
-- nil; and the uids of queues in which something is due: these are not counted.
-- It only reads. The keys of the queues are not among KEYS, because the caller does not know which they are; they are in the same slot.
-- The record of the oldest message of a queue has its body, so the script ends early after BYTES of records.
local BYTES = 4 * 1024 * 1024
local call, now = redis.call, tonumber(ARGV[1])
local uids = call('ZRANGEBYLEX', KEYS[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local free, claimed, delayed, oldest, due, bytes = 0, 0, 0, math.huge, {}, 0
local following = #uids == tonumber(ARGV[3]) and uids[#uids]
for _, uid in ipairs(uids) do
  local prefix = 'zaqar:{' .. uid .. '}:'
  local due_from = tonumber(call('HGET', prefix .. 'fence', 'due_from')) or math.huge
  if due_from <= now then
    due[#due + 1] = uid
  elseif due_from < math.huge then -- each message will be due one day, so a queue with nothing due is empty
    local ready, held = call('ZCARD', prefix .. 'ready'), call('ZCARD', prefix .. 'claimed')
    free = free + ready
    claimed = claimed + held
    delayed = delayed + call('ZCARD', prefix .. 'delayed')
    local number = ready > 0 and call('ZRANGE', prefix .. 'ready', 0, 0)[1]
    local other = held > 0 and call('ZRANGE', prefix .. 'claimed', 0, 0)[1]
    if other and (not number or tonumber(other) < tonumber(number)) then
      number = other
    end
    if number then
      local record = call('HGET', prefix .. 'messages', number)
      oldest = math.min(oldest, (struct.unpack('<d', record))) -- see message_formats
      bytes = bytes + #record
      if bytes >= BYTES then
        following = uid
        break
      end
    end
  end
end
return { following, free, claimed, delayed, oldest < math.huge and string.format('%.17g', oldest), due }
