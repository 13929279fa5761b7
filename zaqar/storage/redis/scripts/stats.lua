-- include: keys fence timers states ripen
-- ARGV: generation, now. Answers free, claimed, then the rows of the oldest and the newest.
if not settle(BATCH) then
  return AGAIN
end
local free_ones, claimed = call('ZCARD', READY), call('ZCARD', CLAIMED)
if free_ones + claimed == 0 then
  return { 0, 0 }
end

local function end_of(command, better)
  local one, other = call(command, READY, 0, 0)[1], call(command, CLAIMED, 0, 0)[1]
  if one and other then
    return better(tonumber(one), tonumber(other)) and one or other
  end
  return one or other
end

local oldest = end_of('ZRANGE', function(one, other)
  return one < other
end)
local newest = end_of('ZREVRANGE', function(one, other)
  return one > other
end)
return add_rows({ free_ones, claimed }, { oldest, newest })
