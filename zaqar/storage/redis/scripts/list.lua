-- include: keys fence timers states ripen
-- ARGV: generation, now, after, limit, '1' for claimed ones as well, '1' for delayed ones, client id to leave out (or no more)
-- Answers where to go on, or false at the end, then the rows.
-- Lua finds equal strings by a hash of a few of their bytes, so thousands of similar bodies are slow to have at a time.
local ROWS = 2500 -- messages that one script reads at most

local after, limit, without = ARGV[3], tonumber(ARGV[4]), ARGV[7]
if not settle(BATCH) then
  return AGAIN
end

local sets = { READY }
if ARGV[5] == '1' then
  sets[#sets + 1] = CLAIMED
end
if ARGV[6] == '1' then
  sets[#sets + 1] = DELAYED
end

local function page(size)
  local found = call('ZRANGEBYSCORE', READY, '(' .. after, '+inf', 'LIMIT', 0, size)
  if #sets == 1 then
    return found
  end
  for place = 2, #sets do
    local more = call('ZRANGEBYSCORE', sets[place], '(' .. after, '+inf', 'LIMIT', 0, size)
    for at = 1, #more do
      found[#found + 1] = more[at]
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

local reply, passed = { false }, 0
while true do
  local found = page(min(limit, CHUNK))
  local rows = add_rows({}, found)
  for at = 1, #rows, 3 do
    if #reply == 3 * limit + 1 then
      return reply
    end
    local record = rows[at + 1]
    local _, _, length = struct.unpack(RECORD, record)
    if sub(record, 29, 28 + length) ~= without then
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = rows[at], record, rows[at + 2]
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
