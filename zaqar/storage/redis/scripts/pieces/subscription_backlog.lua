-- The state of a delivery is: code (WAITING, DONE or DEAD), due, kept until (0 for None), tries, length of the owner, owner ('' for
-- None), attempts. Big-endian, so that the bytes of due times sort like the times; these are not negative.
-- zaqar/storage/redis/delivery_records.py has the same format.
local WAITING, DONE, DEAD = 'w', 'o', 'd'
local DELIVERY = '>c1ddI4I2'
local OWNER_AT = 1 + 8 + 8 + 4 + 2 + 1
local pack_struct, unpack_struct = struct.pack, struct.unpack
local changed = {} -- subscriptions whose backlog this script has changed

-- Returns code, due, kept until, tries, owner, attempts.
local function read(state)
  local code, due, keep, tries, length = unpack_struct(DELIVERY, state)
  return code, due, keep, tries, sub(state, OWNER_AT, OWNER_AT + length - 1), sub(state, OWNER_AT + length)
end

local function write(code, due, keep, tries, owner, attempts)
  return pack_struct(DELIVERY, code, due, keep, tries, #owner) .. owner .. attempts
end

-- Returns subscription and number of an id.
local function split(id)
  return sub(id, 1, -14), sub(id, -12)
end

-- The member of deliveries_waiting.
local function waiting_member(subscription, due, number)
  return subscription .. ':' .. pack_struct('>d', due) .. number
end

-- The member of deliveries_by_state.
local function state_member(subscription, code, number)
  return subscription .. ':' .. code .. ':' .. number
end

-- Take a delivery out of the indexes of its state. A script must do so before it adds anything: a server without free memory
-- refuses a script whose first write may need some, and lets a script go on that began with a removal.
local function take_out(id, code, due)
  local subscription, number = split(id)
  changed[subscription] = true
  if code == WAITING then
    call('ZREM', PREFIX .. 'deliveries_waiting', waiting_member(subscription, due, number))
  else
    call('ZREM', PREFIX .. 'deliveries_kept', id)
  end
  call('ZREM', PREFIX .. 'deliveries_by_state', state_member(subscription, code, number))
end

-- Write a state, and put the delivery into the indexes of that state.
local function put_in(id, state)
  local subscription, number = split(id)
  local code, due, keep = read(state)
  changed[subscription] = true
  call('HSET', PREFIX .. 'delivery_states', id, state)
  call('ZADD', PREFIX .. 'deliveries_by_state', 0, state_member(subscription, code, number))
  if code == WAITING then
    call('ZADD', PREFIX .. 'deliveries_waiting', 0, waiting_member(subscription, due, number))
  elseif keep ~= 0 then
    call('ZADD', PREFIX .. 'deliveries_kept', keep, id)
  end
end

local function remove(id)
  call('HDEL', PREFIX .. 'delivery_states', id)
  call('HDEL', PREFIX .. 'delivery_records', id)
end

-- Whether the subscription has a tombstone. Then no delivery of it is stored, and none is given to a notifier.
local has_dropped
local function is_dropped(subscription)
  if has_dropped == nil then
    has_dropped = call('EXISTS', PREFIX .. 'dropped_subscriptions') == 1
  end
  return has_dropped and call('ZSCORE', PREFIX .. 'dropped_subscriptions', subscription)
end

-- The turn after the last one.
local function next_turn(key)
  return (tonumber(call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]) or 0) + 1
end

-- The time when the first waiting delivery of a subscription is due, or nil.
local function due_of(subscription)
  local from, to = '[' .. subscription .. ':', '(' .. subscription .. ';' -- ';' is the byte after ':'
  local first = call('ZRANGEBYLEX', PREFIX .. 'deliveries_waiting', from, to, 'LIMIT', 0, 1)[1]
  return first and (unpack_struct('>d', first, #subscription + 2))
end

-- Put the subscriptions that were changed where their backlogs belong. One that has its turn keeps it.
local function place_backlogs()
  for subscription in pairs(changed) do
    local due = not is_dropped(subscription) and due_of(subscription)
    if not due then
      call('ZREM', PREFIX .. 'backlogs_due', subscription)
      call('ZREM', PREFIX .. 'backlogs_in_turn', subscription)
    elseif not call('ZSCORE', PREFIX .. 'backlogs_in_turn', subscription) then
      call('ZADD', PREFIX .. 'backlogs_due', due, subscription)
    end
  end
end

-- Put the queue into TURNS if one of its subscriptions has a turn, else into DUE, or into neither.
local function place_queue()
  if call('EXISTS', PREFIX .. 'backlogs_in_turn') == 1 then
    if not call('ZSCORE', TURNS, UID) then
      call('ZADD', TURNS, next_turn(TURNS), UID)
    end
    call('ZREM', DUE, UID)
    return
  end
  call('ZREM', TURNS, UID)
  local due = call('ZRANGE', PREFIX .. 'backlogs_due', 0, 0, 'WITHSCORES')[2]
  if due then
    call('ZADD', DUE, due, UID)
  else
    call('ZREM', DUE, UID)
  end
end

-- Put the queue into KEPT by the time when a sweep has to remove something of it.
local function place_kept()
  local keep = huge
  for _, word in ipairs({ 'deliveries_kept', 'dropped_subscriptions' }) do
    keep = min(keep, tonumber(call('ZRANGE', PREFIX .. word, 0, 0, 'WITHSCORES')[2]) or huge)
  end
  if keep < huge then
    call('ZADD', KEPT, keep, UID)
  else
    call('ZREM', KEPT, UID)
  end
end

-- A script that has changed deliveries ends with this, or with the parts that concern it.
local function place_all()
  place_backlogs()
  place_queue()
  place_kept()
end
