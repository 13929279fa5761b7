-- Count the deliveries of many queues, and find the time of the oldest waiting one.
-- KEYS: the list KEPT of the slot, or of the server. ARGV: the subscription after which to begin in the first queue or '', then the uids
-- of queues.
-- Reply: how many of the queues are done, and the subscription after which to go on in the next one or ''; waiting and dead deliveries;
-- and when the oldest waiting one was created, or nil.
-- It only reads. The keys of the queues are not among KEYS, because the caller has no list of the keys; they are in the slot of KEYS[1].
-- Its cost does not depend on the number of deliveries: it goes from subscription to subscription in an index, SUBSCRIPTIONS at most,
-- and counts with commands that do not read what they count. The record of a delivery has its body, so it ends early after BYTES.
local SUBSCRIPTIONS, BYTES = 500, 4 * 1024 * 1024
local WAITING, DEAD = 'w', 'd' -- see subscription_backlog
local CONFIRMATION = '000000000000' -- number of a delivery that belongs to no message, so it says nothing about the time
local call, sub = redis.call, string.sub
local waiting, dead, oldest, looked, bytes = 0, 0, math.huge, 0, 0

-- When the delivery of a record was created. A record is a MessagePack array of body, ttl, created, ... (see delivery_records.py). cmsgpack
-- cannot read binary data, so pass over the body: its type tells the width of its length.
local WIDTHS = { [0xc4] = 1, [0xc5] = 2, [0xc6] = 4 }
local function created_of(record)
  local width = WIDTHS[string.byte(record, 2)]
  local _, _, created = cmsgpack.unpack_limit(record, 2, 2 + width + struct.unpack('>I' .. width, record, 3))
  return created
end

local function look_at(prefix, id)
  local record = call('HGET', prefix .. 'delivery_records', id)
  oldest = math.min(oldest, created_of(record))
  bytes = bytes + #record
end

-- Count the deliveries of a queue from behind the subscription `after`. Returns the subscription after which to go on, or nil if all are
-- counted.
local function count(prefix, after)
  -- Numbers of messages are in the order of their times. So of all subscriptions only the record of the first number is read.
  local by_state, first, first_id = prefix .. 'deliveries_by_state', nil, nil
  local function see(number)
    if number == CONFIRMATION then
      look_at(prefix, after .. ':' .. number)
    elseif not first or number < first then
      first, first_id = number, after .. ':' .. number
    end
  end
  if after == '' then
    waiting = waiting + call('ZCARD', prefix .. 'deliveries_waiting')
  end
  while true do
    -- A member is: subscription, ':', code of the state, ':', number of 12 digits. So the first member behind 'subscription;' is the
    -- first one of the next subscription.
    local member = call('ZRANGEBYLEX', by_state, after == '' and '-' or '(' .. after .. ';', '+', 'LIMIT', 0, 1)[1]
    if member and looked < SUBSCRIPTIONS then
      looked = looked + 1
      after = sub(member, 1, -16)
      local code, number = sub(member, -14, -14), sub(member, -12)
      if code == DEAD then
        local range = after .. ':' .. DEAD
        dead = dead + call('ZLEXCOUNT', by_state, '[' .. range .. ':', '(' .. range .. ';')
      end
      if code == WAITING and number ~= CONFIRMATION then
        see(number)
      else
        local range = after .. ':' .. WAITING
        for _, each in ipairs(call('ZRANGEBYLEX', by_state, '[' .. range .. ':', '(' .. range .. ';', 'LIMIT', 0, 2)) do
          see(sub(each, -12))
        end
      end
    else
      if first then
        look_at(prefix, first_id)
      end
      return member and after
    end
  end
end

local done, after = 0, ARGV[1]
while done < #ARGV - 1 and looked < SUBSCRIPTIONS and bytes < BYTES do
  after = count('zaqar:{' .. ARGV[done + 2] .. '}:', after) or ''
  if after == '' then
    done = done + 1
  end
end
return { done, after, waiting, dead, oldest < math.huge and string.format('%.17g', oldest) }
