-- include: outbox_keys
-- include: lanes
-- ARGV: lane, number, the number as it is in `by state`, how many deliveries that do not count may be skipped, and the due time
-- from which on a delivery does not count, or ''. Answers 1 if one with a smaller number waits or may still come, else 0.
-- Posts and deliveries of a queue have the same hash tag, so they are in one slot of a Cluster, and this script and `expand` run
-- one after the other. The script reads only the beginning of an index, and all posts on lease, of which each running notifier
-- has a few.
local lane, number, most, due_before = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]) or huge
local posts = call('ZRANGE', PREFIX .. 'i', 0, 0)
local from = 0
repeat
  for _, first in ipairs(posts) do
    if tonumber(first) < number then
      return 1
    end
  end
  posts = call('ZRANGE', PREFIX .. 'j', from, from + CHUNK - 1)
  from = from + CHUNK
until #posts == 0

local range, passed = lane .. ':w:', 0
while passed < most do
  -- Mostly the first one counts, so read one and then many.
  local size = passed == 0 and 1 or min(100, most - passed)
  local found = call('ZRANGEBYLEX', PREFIX .. 'u', '[' .. range, '(' .. range .. ARGV[3], 'LIMIT', passed, size)
  for _, listed in ipairs(found) do
    local _, due = read(call('HGET', PREFIX .. 'g', lane .. ':' .. sub(listed, -12)))
    if due < due_before then
      return 1
    end
  end
  passed = passed + #found
  if #found < size then
    return 0
  end
end
return 1
