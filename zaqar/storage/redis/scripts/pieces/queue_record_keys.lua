-- KEYS, all of one project and kind: names (sorted set, all scores 0), records (hash by name), pools (hash: number of queues by pool).
-- A record is: uid, generation, pool (percent-encoded, or '-'), a line feed, the rest as JSON.
local NAMES, RECORDS, POOLS = KEYS[1], KEYS[2], KEYS[3]

local function parts_of(record)
  return string.match(record, '^(%S+) (%S+) (%S+)\n')
end

local function count_on_pool(pool, by)
  if pool ~= '-' and redis.call('HINCRBY', POOLS, pool, by) <= 0 then
    redis.call('HDEL', POOLS, pool)
  end
end
