-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: rows
-- include: delays
-- include: ripen
-- ARGV: generation, now, after, limit, '1' for claimed ones as well, '1' for delayed ones, client id to leave out (or no more)
-- Answers where to go on, or false at the end, then the rows.
-- Lua finds equal strings by a hash of a few of their bytes, so thousands of similar bodies are slow to have at a time.
local ROWS = 2500 -- messages that one script reads at most

local after, limit, without = ARGV[3], tonumber(ARGV[4]), ARGV[7]
if not settle(BATCH) then
  return AGAIN
end

local function rows_of(reply, found)
  local from = #reply + 3
  add_rows(reply, found)
  return ARGV[6] == '1' and add_delays(reply, from) or reply
end

local function page(size)
  local found = call('ZRANGEBYSCORE', PREFIX .. 'r', '(' .. after, '+inf', 'LIMIT', 0, size)
  if ARGV[5] == '' and ARGV[6] == '' then
    return found
  end
  for place, letter in ipairs({ 'c', 'o' }) do
    if ARGV[4 + place] == '1' then
      local more = call('ZRANGEBYSCORE', PREFIX .. letter, '(' .. after, '+inf', 'LIMIT', 0, size)
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
  return rows_of({ #found == ROWS and limit > ROWS and found[ROWS] }, found)
end

local reply, passed = { false }, 0
while true do
  local found = page(min(limit, CHUNK))
  local rows = rows_of({}, found)
  for at = 1, 3 * #found, 3 do
    if #reply == 3 * limit + 1 then
      return reply
    end
    local record = rows[at + 1]
    local _, _, length = unpack_struct(RECORD, record)
    if sub(record, 29, 28 + length) ~= without then
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
