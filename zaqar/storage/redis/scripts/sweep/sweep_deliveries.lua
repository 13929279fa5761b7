-- Remove deliveries that were kept long enough, and all deliveries of dropped subscriptions.
-- KEYS: see outbox_keys. ARGV: now, limit, for how long a tombstone of a subscription stays. Reply: how many records were removed or
-- moved. Each run does some, or KEPT has the queue at a later time; so a sweep that repeats it ends.
-- It looks at a dropped subscription twice. First as soon as possible (score 0): it removes the deliveries, and moves the tombstone to
-- the end of its lifetime. Then at that time: it looks once more, and removes the tombstone last. A crash in between leaves the
-- tombstone, so the next sweep goes on.
-- include: outbox_keys
-- include: subscription_backlog
local BATCH = 500 -- number of deliveries that one script removes; a server runs nothing else meanwhile
local now, most = tonumber(ARGV[1]), min(tonumber(ARGV[2]), BATCH)
local limit = most

local function remove_from(command, key, list)
  if #list > 0 then
    call(command, PREFIX .. key, unpack(list))
  end
end

local function remove_all(ids)
  local states = #ids > 0 and call('HMGET', PREFIX .. 'delivery_states', unpack(ids))
  local waiting, settled, by_state = {}, {}, {}
  for place, id in ipairs(ids) do
    local subscription, number = split(id)
    local code, due = read(states[place])
    if code == WAITING then
      waiting[#waiting + 1] = waiting_member(subscription, due, number)
    else
      settled[#settled + 1] = id
    end
    by_state[place] = state_member(subscription, code, number)
  end
  remove_from('ZREM', 'deliveries_waiting', waiting)
  remove_from('ZREM', 'deliveries_kept', settled)
  remove_from('ZREM', 'deliveries_by_state', by_state)
  remove_from('HDEL', 'delivery_states', ids)
  remove_from('HDEL', 'delivery_records', ids)
  limit = limit - #ids
end

remove_all(call('ZRANGEBYSCORE', PREFIX .. 'deliveries_kept', '-inf', ARGV[1], 'LIMIT', 0, limit))
local dropped =
  call('ZRANGEBYSCORE', PREFIX .. 'dropped_subscriptions', '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, limit)
for at = 1, #dropped, 2 do
  local subscription, ids = dropped[at], {}
  if limit <= 0 then
    break
  end
  local from, to = '[' .. subscription .. ':', '(' .. subscription .. ';'
  for place, member in ipairs(call('ZRANGEBYLEX', PREFIX .. 'deliveries_by_state', from, to, 'LIMIT', 0, limit)) do
    ids[place] = subscription .. ':' .. sub(member, -12)
  end
  remove_all(ids)
  if limit > 0 then
    -- ZREM must be the first write if there was no delivery: a server without free memory lets a script go on that began so.
    call('ZREM', PREFIX .. 'dropped_subscriptions', subscription)
    if tonumber(dropped[at + 1]) == 0 then
      call('ZADD', PREFIX .. 'dropped_subscriptions', now + tonumber(ARGV[3]), subscription)
    end
    limit = limit - 1
  end
end
place_kept()
return most - limit
