local function parts_of(row)
  return string.match(row, '^(%S+) (%S+) (%S+)\n')
end

local function count(pool, by)
  if pool ~= '-' and redis.call('HINCRBY', KEYS[3], pool, by) <= 0 then
    redis.call('HDEL', KEYS[3], pool)
  end
end
