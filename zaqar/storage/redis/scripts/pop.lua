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
remove(numbers)
return reply
