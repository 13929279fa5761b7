-- Read messages in the order of their numbers.
-- KEYS: see queue_keys. ARGV: generation, now, the number after which to begin, limit, '1' to include claimed ones or '', '1' to
-- include delayed ones or '', and a client id whose messages are left out (or no more).
-- Reply: the number after which to go on, or nil at the end; then number, record and state of each.
-- It only promotes what is due. A page is of one moment.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: add_rows
-- Lua finds equal strings by a hash of a few of their bytes, so thousands of similar bodies at a time make it slow.
local ROWS = 2500 -- number of messages that one script reads

local after, limit, without = ARGV[3], tonumber(ARGV[4]), ARGV[7]
-- include: promote_first

local function page(size)
  local found = call('ZRANGEBYSCORE', PREFIX .. 'ready', '(' .. after, '+inf', 'LIMIT', 0, size)
  if ARGV[5] == '' and ARGV[6] == '' then
    return found
  end
  for place, word in ipairs({ 'claimed', 'delayed' }) do
    if ARGV[4 + place] == '1' then
      local more = call('ZRANGEBYSCORE', PREFIX .. word, '(' .. after, '+inf', 'LIMIT', 0, size)
      for at = 1, #more do
        found[#found + 1] = more[at]
      end
    end
  end
  table.sort(found, function(one, other)
    return tonumber(one) < tonumber(other)
  end)
  for at = #found, size + 1, -1 do
    found[at] = nil
  end
  return found
end

if not without then
  local found = page(min(limit, ROWS))
  return add_rows({ #found == ROWS and limit > ROWS and found[ROWS] }, found)
end

-- Pass over the messages of a client, but over a bounded number in one script.
local reply, passed = { false }, 0
while true do
  local found = page(min(limit, CHUNK))
  local rows = add_rows({}, found)
  for at = 1, 3 * #found, 3 do
    if #reply == 3 * limit + 1 then
      return reply
    end
    local record = rows[at + 1]
    local _, _, length = unpack_struct(RECORD, record)
    if sub(record, HEAD_OF_RECORD + 1, HEAD_OF_RECORD + length) ~= without then
      local size = #reply
      reply[size + 1], reply[size + 2], reply[size + 3] = rows[at], record, rows[at + 2]
    end
  end
  if #found < min(limit, CHUNK) or #reply == 3 * limit + 1 then
    return reply
  end
  after = found[#found]
  passed = passed + #found
  if passed >= ROWS - CHUNK then
    reply[1] = after
    return reply
  end
end
