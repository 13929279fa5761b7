-- A record is written once: created, expires (as posted), three lengths, client id, checksum, origin, body.
-- A state is what changes: expires, end of claim, claims so far, claim id ('' for none). Never claimed, never delayed: none.
local RECORD, STATE = '<ddI4I4I4', '<ddI4'

local function state_of(expires, ends, count, claim_id)
  return struct.pack(STATE, expires, ends, count) .. claim_id
end

local function holder(state)
  return sub(state, 21)
end

-- What a message is by its state and record, of which one may be missing: expires, claims so far
local function life_of(record, state)
  if state then
    local expires, _, count = struct.unpack(STATE, state)
    return expires, count
  end
  local _, expires = struct.unpack('<dd', record)
  return expires, 0
end

-- Visit what a claim holds: each message of its list whose state still names it.
local function each_held(claim_id, packed, visit)
  local listed = {}
  for number in string.gmatch(sub(packed, 17), '%d+') do
    listed[#listed + 1] = number
  end
  for from = 1, #listed, CHUNK do
    local states = call('HMGET', STATES, unpack(listed, from, min(from + CHUNK - 1, #listed)))
    for place = 1, #states do
      local state = states[place]
      if state and holder(state) == claim_id then
        visit(listed[from + place - 1], state)
      end
    end
  end
end

-- Add number, record and state of each to a reply.
local function add_rows(reply, numbers)
  for from = 1, #numbers, CHUNK do
    local to = min(from + CHUNK - 1, #numbers)
    local records = call('HMGET', RECORDS, unpack(numbers, from, to))
    local states = call('HMGET', STATES, unpack(numbers, from, to))
    local size = #reply
    for place = 1, to - from + 1 do
      reply[size + 1], reply[size + 2], reply[size + 3] = numbers[from + place - 1], records[place], states[place]
      size = size + 3
    end
  end
  return reply
end
