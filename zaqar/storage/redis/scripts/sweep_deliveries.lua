-- include: outbox_keys
-- include: lanes
-- ARGV: now, limit, how long dropped subscriptions are remembered. Removes what was kept long enough, and what is left of dropped
-- subscriptions. Those are looked at twice: first as soon as possible (their score is 0), then once more when they are forgotten.
-- Answers how many records it removed or moved; it always gets on, or KEPT names a later moment.
local now, limit = tonumber(ARGV[1]), min(tonumber(ARGV[2]), CHUNK)

local function remove_all(ids)
  for _, id in ipairs(ids) do
    local letter, due = read(call('HGET', PREFIX .. 'g', id))
    take_out(id, letter, due)
    remove(id)
  end
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
    if tonumber(dropped[at + 1]) == 0 then
      call('ZADD', PREFIX .. 'a', now + tonumber(ARGV[3]), lane)
    else
      call('ZREM', PREFIX .. 'a', lane)
    end
    limit = limit - 1
  end
end
place_kept()
return min(tonumber(ARGV[2]), CHUNK) - limit
