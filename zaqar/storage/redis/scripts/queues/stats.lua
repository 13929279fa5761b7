-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: rows
-- include: ripen
-- ARGV: generation, now. Answers free, claimed, then the rows of the oldest and the newest.
if not settle(BATCH) then
  return AGAIN
end
local READY, CLAIMED = PREFIX .. 'r', PREFIX .. 'c'
local free_ones, claimed = call('ZCARD', READY), call('ZCARD', CLAIMED)
if free_ones + claimed == 0 then
  return { 0, 0 }
end
local oldest, newest = call('ZRANGE', READY, 0, 0)[1], call('ZREVRANGE', READY, 0, 0)[1]
if claimed > 0 then
  local first, last = call('ZRANGE', CLAIMED, 0, 0)[1], call('ZREVRANGE', CLAIMED, 0, 0)[1]
  if not oldest or tonumber(first) < tonumber(oldest) then
    oldest = first
  end
  if not newest or tonumber(last) > tonumber(newest) then
    newest = last
  end
end
return add_rows({ free_ones, claimed }, { oldest, newest })
