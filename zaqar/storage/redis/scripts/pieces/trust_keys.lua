-- KEYS: when each trust is due, by id (a sorted set); the rows, by id; and the ids of the trusts of one queue (a set).
-- A row is: when it is due, as it was written, 1 if it is attached else 0, the id of the subscription, the queue's uid,
-- a line feed, the rest as JSON.
local function parts_of(row)
  return string.match(row, '^(%S+) (%d) (%S+) (%S+)\n(.*)$')
end

local function put(id, row)
  redis.call('ZADD', KEYS[1], (parts_of(row)), id)
  redis.call('HSET', KEYS[2], id, row)
end
