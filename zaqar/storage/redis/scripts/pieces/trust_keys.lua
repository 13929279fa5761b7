-- KEYS: due (sorted set: trusts by the time when to look at them), records (hash by id), and a set of the ids of one queue.
-- A record is: due, as it was written; 1 if it is attached, else 0; id of the subscription; uid of the queue; a line feed; the rest as
-- JSON.
local DUE, RECORDS, OF_QUEUE = KEYS[1], KEYS[2], KEYS[3]

local function parts_of(record)
  return string.match(record, '^(%S+) (%d) (%S+) (%S+)\n(.*)$')
end

local function put(id, record)
  redis.call('ZADD', DUE, (parts_of(record)), id)
  redis.call('HSET', RECORDS, id, record)
end
