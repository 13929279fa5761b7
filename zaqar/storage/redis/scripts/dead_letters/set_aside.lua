-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: many
-- include: rows
-- include: remove
-- include: first_free
-- include: ripen
-- ARGV: generation, now, number of claims that wears out, limit
-- Answers letters in the order they were set aside, each after its number. A letter is: claims so far, then the record.
if not settle(BATCH) then
  return AGAIN
end
local already = call('ZCARD', PREFIX .. 'x')
if already < BATCH then
  local _, dead = first_free(tonumber(ARGV[4]), tonumber(ARGV[3]), BATCH - already)
  if #dead > 0 then
    local rows = add_rows({}, dead)
    local place = tonumber(call('ZREVRANGE', PREFIX .. 'x', 0, 0, 'WITHSCORES')[2]) or 0
    local aside, letters = {}, {}
    for at = 1, 3 * #dead, 3 do
      local record = rows[at + 1]
      local expires, _, count = unpack_struct(STATE, rows[at + 2])
      place = place + 1
      aside[#aside + 1] = place
      aside[#aside + 1] = rows[at]
      letters[#letters + 1] = rows[at]
      letters[#letters + 1] = pack_struct('<I4', count) .. sub(record, 1, 8) .. pack_struct('<d', expires) .. sub(record, 17)
    end
    many('ZADD', PREFIX .. 'x', aside)
    many('HSET', PREFIX .. 'y', letters)
    remove(dead)
  end
end
local numbers = call('ZRANGE', PREFIX .. 'x', 0, BATCH - 1)
local reply = { false }
if #numbers > 0 then
  local letters = call('HMGET', PREFIX .. 'y', unpack(numbers))
  for place = 1, #numbers do
    reply[2 * place] = numbers[place]
    reply[2 * place + 1] = letters[place]
  end
end
return reply
