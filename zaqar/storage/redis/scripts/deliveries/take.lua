-- Lease due deliveries of a queue to a notifier.
-- KEYS: see outbox_keys. ARGV: now, owner, end of the lease, limit, most of one subscription, then subscriptions to pass over.
-- Reply: id, record and state of each. Subscriptions take turns: one that was served goes behind those that wait for theirs.
-- A lease is the owner and a due time in the future, so a second caller does not find the delivery until the lease is over. If the
-- answer is lost, the deliveries are due again then.
-- include: outbox_keys
-- include: subscription_backlog
local now, owner, until_, limit, most = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local without, reply, taken = {}, {}, 0
for at = 6, #ARGV do
  without[ARGV[at]] = true
end

-- 1. Subscriptions that have something due by now get a turn.
local risen = call('ZRANGEBYSCORE', PREFIX .. 'backlogs_due', '-inf', ARGV[1], 'LIMIT', 0, CHUNK)
if #risen > 0 then
  call('ZREM', PREFIX .. 'backlogs_due', unpack(risen))
  local turn = next_turn(PREFIX .. 'backlogs_in_turn')
  for place, subscription in ipairs(risen) do
    call('ZADD', PREFIX .. 'backlogs_in_turn', turn + place, subscription)
  end
end

local function lease(subscription, most_now)
  local from = '[' .. subscription .. ':'
  local to = '[' .. waiting_member(subscription, now, 'g') -- 'g' is behind every hexadecimal digit
  local found = call('ZRANGEBYLEX', PREFIX .. 'deliveries_waiting', from, to, 'LIMIT', 0, most_now)
  for _, member in ipairs(found) do
    local number = sub(member, -12)
    local id = subscription .. ':' .. number
    local _, _, keep, tries, _, attempts = read(call('HGET', PREFIX .. 'delivery_states', id))
    local state = write(WAITING, until_, keep, tries, owner, attempts)
    call('ZREM', PREFIX .. 'deliveries_waiting', member)
    call('ZADD', PREFIX .. 'deliveries_waiting', 0, waiting_member(subscription, until_, number))
    call('HSET', PREFIX .. 'delivery_states', id, state)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = id, call('HGET', PREFIX .. 'delivery_records', id), state
  end
  taken = taken + #found
end

-- 2. Serve them by turn. Those that are passed over keep their places. The walk ends at the last one that had a turn at its beginning.
local served, from, last = {}, 0, call('ZCARD', PREFIX .. 'backlogs_in_turn')
while from < last and taken < limit do
  local some = call('ZRANGE', PREFIX .. 'backlogs_in_turn', from, min(from + 99, last - 1))
  from = from + #some
  for _, subscription in ipairs(some) do
    if taken >= limit then
      break
    end
    if not without[subscription] then
      lease(subscription, min(most, limit - taken))
      served[#served + 1] = subscription
    end
  end
end

-- 3. A subscription that was served and has more goes to the end; another one loses its turn until its next delivery is due.
local turn = next_turn(PREFIX .. 'backlogs_in_turn')
for place, subscription in ipairs(served) do
  local due = due_of(subscription)
  if due and due <= now then
    call('ZADD', PREFIX .. 'backlogs_in_turn', turn + place, subscription)
  else
    call('ZREM', PREFIX .. 'backlogs_in_turn', subscription)
    if due then
      call('ZADD', PREFIX .. 'backlogs_due', due, subscription)
    end
  end
end
call('ZREM', TURNS, UID) -- so that place_queue puts it behind the others
place_queue()
return reply
