-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: many
-- include: rows
-- include: remove
-- include: ripen
-- ARGV: generation, now, limit
if not settle(BATCH) then
  return AGAIN
end
local numbers = call('ZRANGE', PREFIX .. 'r', 0, tonumber(ARGV[3]) - 1)
local reply = add_rows({ false }, numbers)
for at = 3, #reply, 3 do
  local record = reply[at]
  local _, _, client, checksum, origin = unpack_struct(RECORD, record)
  -- The first byte of the body. What is sealed has to be decrypted before it may be removed.
  if string.byte(record, 29 + client + checksum + origin) == 1 then
    return IS_SEALED
  end
end
remove(numbers)
return reply
