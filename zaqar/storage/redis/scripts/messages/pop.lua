-- Delete the first free messages of a queue and return them.
-- KEYS: see queue_keys. ARGV: generation, now, limit.
-- Reply: nil, then number, record and state of each; or IS_SEALED if a body is sealed, then nothing was removed.
-- A second run would pop others, so it is never sent again after a lost answer. A second caller gets the messages after these.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: call_in_chunks
-- include: add_rows
-- include: remove_ready
-- include: promote_first
local numbers = call('ZRANGE', PREFIX .. 'ready', 0, tonumber(ARGV[3]) - 1)
local reply = add_rows({ false }, numbers)
for at = 3, #reply, 3 do
  local record = reply[at]
  local _, _, client, checksum, origin = unpack_struct(RECORD, record)
  -- The first byte of the body tells whether it is sealed. The caller must decrypt it before it may be removed.
  if string.byte(record, HEAD_OF_RECORD + 1 + client + checksum + origin) == 1 then
    return IS_SEALED
  end
end
remove_ready(numbers)
return reply
