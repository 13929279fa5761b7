-- include: keys fence timers states ripen first_free
-- ARGV: generation, now, number of claims that wears out, limit
-- ASIDE has the numbers in the order they were set aside, LETTERS the messages: claims so far, then the record.
if not settle(BATCH) then
  return AGAIN
end
local already = call('ZCARD', ASIDE)
if already < BATCH then
  local _, dead = first_free(tonumber(ARGV[4]), tonumber(ARGV[3]), BATCH - already)
  if #dead > 0 then
    local rows = add_rows({}, dead)
    local place = tonumber(call('ZREVRANGE', ASIDE, 0, 0, 'WITHSCORES')[2]) or 0
    local aside, letters = {}, {}
    for at = 1, #rows, 3 do
      local record = rows[at + 1]
      local expires, count = life_of(record, rows[at + 2])
      place = place + 1
      aside[#aside + 1] = place
      aside[#aside + 1] = rows[at]
      letters[#letters + 1] = rows[at]
      letters[#letters + 1] = struct.pack('<I4', count) .. sub(record, 1, 8) .. struct.pack('<d', expires) .. sub(record, 17)
    end
    many('ZADD', ASIDE, aside)
    many('HSET', LETTERS, letters)
    many('ZREM', READY, dead)
    many('ZREM', LIFE, dead)
    many('HDEL', RECORDS, dead)
    many('HDEL', STATES, dead)
  end
end
local numbers = call('ZRANGE', ASIDE, 0, BATCH - 1)
local reply = { false }
if #numbers > 0 then
  local letters = call('HMGET', LETTERS, unpack(numbers))
  for place = 1, #numbers do
    reply[#reply + 1] = numbers[place]
    reply[#reply + 1] = letters[place]
  end
end
return reply
