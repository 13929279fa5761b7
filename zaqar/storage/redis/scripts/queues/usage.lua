-- Count messages of a queue and the bytes of their bodies.
-- KEYS: see queue_keys. ARGV: generation (ignored), now (ignored), the place of the set to go on with (1 at the beginning), the number after
-- which to begin in it, and how many messages to count at most.
-- Reply: messages and bytes; then place and number to go on with, if there may be more. It only reads.
-- Expired messages count until they are removed. A script reads MESSAGES or about BYTES at most; a server runs nothing else meanwhile.
-- include: queue_keys
-- include: message_formats
-- Lua finds equal strings by a hash of a few of their bytes, so many similar records at a time make it slow.
local RECORDS = 100 -- number of records that one command reads
local MESSAGES, BYTES = 1000, 4 * 1024 * 1024
local words, most = { 'ready', 'claimed', 'delayed' }, min(tonumber(ARGV[5]), MESSAGES)
local place, after, count, bytes, read = tonumber(ARGV[3]), ARGV[4], 0, 0, 0
while place <= #words do
  local size = min(RECORDS, most - count)
  if size == 0 or read >= BYTES then
    return { count, bytes, place, after }
  end
  local numbers = call('ZRANGEBYSCORE', PREFIX .. words[place], '(' .. after, '+inf', 'LIMIT', 0, size)
  if #numbers > 0 then
    for _, record in ipairs(call('HMGET', PREFIX .. 'messages', unpack(numbers))) do
      local _, _, client, checksum, origin = unpack_struct(RECORD, record)
      bytes = bytes + #record - HEAD_OF_RECORD - client - checksum - origin
      read = read + #record
    end
    count = count + #numbers
    after = numbers[#numbers]
  end
  if #numbers < size then
    place, after = place + 1, '0'
  end
end
return { count, bytes }
