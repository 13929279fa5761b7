-- A state is: letter ('w' waiting, 'o' done, 'd' dead), due, kept until (0 for None), tries, length of the owner, owner ('' for
-- None), attempts. Big-endian, so that dues as bytes are in the order of time; they are not negative.
local DELIVERY = '>c1ddI4I2'
local OWNER_AT = 1 + 8 + 8 + 4 + 2 + 1
local pack_struct, unpack_struct = struct.pack, struct.unpack
local lanes = {} -- that something was changed of

-- letter, due, kept until, tries, owner, attempts
local function read(state)
  local letter, due, keep, tries, length = unpack_struct(DELIVERY, state)
  return letter, due, keep, tries, sub(state, OWNER_AT, OWNER_AT + length - 1), sub(state, OWNER_AT + length)
end

local function write(letter, due, keep, tries, owner, attempts)
  return pack_struct(DELIVERY, letter, due, keep, tries, #owner) .. owner .. attempts
end

local function split(id)
  return sub(id, 1, -14), sub(id, -12)
end

local function waits_as(lane, due, number)
  return lane .. ':' .. pack_struct('>d', due) .. number
end

local function listed_as(lane, letter, number)
  return lane .. ':' .. letter .. ':' .. number
end

-- Take a delivery out of where its state put it. Comes first: a server without free memory lets a script go on that began so.
local function take_out(id, letter, due)
  local lane, number = split(id)
  lanes[lane] = true
  if letter == 'w' then
    call('ZREM', PREFIX .. 'w', waits_as(lane, due, number))
  else
    call('ZREM', PREFIX .. 'q', id)
  end
  call('ZREM', PREFIX .. 'u', listed_as(lane, letter, number))
end

-- Put it where its state says.
local function put_in(id, state)
  local lane, number = split(id)
  local letter, due, keep = read(state)
  lanes[lane] = true
  call('HSET', PREFIX .. 'g', id, state)
  call('ZADD', PREFIX .. 'u', 0, listed_as(lane, letter, number))
  if letter == 'w' then
    call('ZADD', PREFIX .. 'w', 0, waits_as(lane, due, number))
  elseif keep ~= 0 then
    call('ZADD', PREFIX .. 'q', keep, id)
  end
end

local function remove(id)
  call('HDEL', PREFIX .. 'g', id)
  call('HDEL', PREFIX .. 'b', id)
end

-- Whether the subscription was dropped: then nothing is stored of it, and what there is is not given to anybody.
local has_dropped
local function is_dropped(lane)
  if has_dropped == nil then
    has_dropped = call('EXISTS', PREFIX .. 'a') == 1
  end
  return has_dropped and call('ZSCORE', PREFIX .. 'a', lane)
end

-- The turn after the last one.
local function next_turn(key)
  return (tonumber(call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]) or 0) + 1
end

-- When the lane has something due, or nil.
local function due_of(lane)
  local first = call('ZRANGEBYLEX', PREFIX .. 'w', '[' .. lane .. ':', '(' .. lane .. ';', 'LIMIT', 0, 1)[1]
  return first and (unpack_struct('>d', first, #lane + 2))
end

-- Bring the lanes that were changed to their places, and the queue to its own. One that is at hand keeps its turn.
local function place_lanes()
  for lane in pairs(lanes) do
    local due = not is_dropped(lane) and due_of(lane)
    if not due then
      call('ZREM', PREFIX .. 'n', lane)
      call('ZREM', PREFIX .. 'h', lane)
    elseif not call('ZSCORE', PREFIX .. 'h', lane) then
      call('ZADD', PREFIX .. 'n', due, lane)
    end
  end
end

local function place_queue()
  if call('EXISTS', PREFIX .. 'h') == 1 then
    if not call('ZSCORE', TURNS, UID) then
      call('ZADD', TURNS, next_turn(TURNS), UID)
    end
    call('ZREM', DUE, UID)
    return
  end
  call('ZREM', TURNS, UID)
  local due = call('ZRANGE', PREFIX .. 'n', 0, 0, 'WITHSCORES')[2]
  if due then
    call('ZADD', DUE, due, UID)
  else
    call('ZREM', DUE, UID)
  end
end

local function place_kept()
  local keep = huge
  for _, letter in ipairs({ 'q', 'a' }) do
    keep = min(keep, tonumber(call('ZRANGE', PREFIX .. letter, 0, 0, 'WITHSCORES')[2]) or huge)
  end
  if keep < huge then
    call('ZADD', KEPT, keep, UID)
  else
    call('ZREM', KEPT, UID)
  end
end

local function place()
  place_lanes()
  place_queue()
  place_kept()
end
