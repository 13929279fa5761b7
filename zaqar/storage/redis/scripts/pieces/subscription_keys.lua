-- KEYS, all of one queue: ids in order (scores all 0), rows by id, ids by subscriber.
-- A row is: version, when it is over, the length of the subscriber, a line feed, the subscriber, the whole as JSON.
-- One that is over stays until it is deleted, but gives way: its subscriber may then be another's.
local function parts_of(row)
  local version, over, length, head = string.match(row, '^(%S+) (%S+) (%d+)\n()')
  return version, tonumber(over), string.sub(row, head, head + length - 1)
end

-- The id and the row of the live one with this subscriber, or nil.
local function live_with(subscriber, now)
  local id = redis.call('HGET', KEYS[3], subscriber)
  local row = id and redis.call('HGET', KEYS[2], id)
  if row then
    local _, over = parts_of(row)
    if now < over then
      return id, row
    end
  end
end

local function give_up(id, subscriber)
  if redis.call('HGET', KEYS[3], subscriber) == id then
    redis.call('HDEL', KEYS[3], subscriber)
  end
end
