-- include: outbox_keys
-- include: lanes
-- ARGV: now, limit, how long dropped subscriptions are remembered. Removes what was kept long enough, and what is left of dropped
-- subscriptions. Those are looked at twice: first as soon as possible (their score is 0), then once more when they are forgotten.
-- Answers how many records it removed or moved; it always gets on, or KEPT names a later moment.
local BATCH = 500 -- deliveries that one script removes; a server runs nothing else meanwhile
local now, most = tonumber(ARGV[1]), min(tonumber(ARGV[2]), BATCH)
local limit = most

local function remove_from(command, key, list)
  if #list > 0 then
    call(command, PREFIX .. key, unpack(list))
  end
end

local function remove_all(ids)
  local states = #ids > 0 and call('HMGET', PREFIX .. 'g', unpack(ids))
  local waiting, settled, of_state = {}, {}, {}
  for place, id in ipairs(ids) do
    local lane, number = split(id)
    local letter, due = read(states[place])
    if letter == 'w' then
      waiting[#waiting + 1] = waits_as(lane, due, number)
    else
      settled[#settled + 1] = id
    end
    of_state[place] = listed_as(lane, letter, number)
  end
  remove_from('ZREM', 'w', waiting)
  remove_from('ZREM', 'q', settled)
  remove_from('ZREM', 'u', of_state)
  remove_from('HDEL', 'g', ids)
  remove_from('HDEL', 'b', ids)
  limit = limit - #ids
end

remove_all(call('ZRANGEBYSCORE', PREFIX .. 'q', '-inf', ARGV[1], 'LIMIT', 0, limit))
local dropped = call('ZRANGEBYSCORE', PREFIX .. 'a', '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, limit)
for at = 1, #dropped, 2 do
  local lane, ids = dropped[at], {}
  if limit <= 0 then
    break
  end
  for place, listed in ipairs(call('ZRANGEBYLEX', PREFIX .. 'u', '[' .. lane .. ':', '(' .. lane .. ';', 'LIMIT', 0, limit)) do
    ids[place] = lane .. ':' .. sub(listed, -12)
  end
  remove_all(ids)
  if limit > 0 then
    -- Comes first: a server without free memory lets a script go on that began so.
    call('ZREM', PREFIX .. 'a', lane)
    if tonumber(dropped[at + 1]) == 0 then
      call('ZADD', PREFIX .. 'a', now + tonumber(ARGV[3]), lane)
    end
    limit = limit - 1
  end
end
place_kept()
return most - limit
