-- Count the messages of a queue, and find the oldest and the newest.
-- KEYS, ARGV: see queue_keys. Reply: free, claimed, then number, record and state of the oldest and of the newest.
-- What is due is promoted first, so the two sizes are exact at `now`.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: add_rows
-- include: promote_first
local READY, CLAIMED = PREFIX .. 'ready', PREFIX .. 'claimed'
local free, claimed = call('ZCARD', READY), call('ZCARD', CLAIMED)
if free + claimed == 0 then
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
return add_rows({ free, claimed }, { oldest, newest })
