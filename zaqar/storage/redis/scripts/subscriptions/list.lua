-- include: subscription_keys
-- ARGV: id to go on after, limit, now. Answers the rows of those that are live, by the order of their ids.
local after, limit, now, rows = '(' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
while true do
  local size = math.min(limit - #rows, 1000)
  local ids = redis.call('ZRANGEBYLEX', KEYS[1], after, '+', 'LIMIT', 0, size)
  if #ids == 0 then
    return rows
  end
  for _, row in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do
    local _, over = parts_of(row)
    if now < over then
      rows[#rows + 1] = row
    end
  end
  if #rows == limit or #ids < size then
    return rows
  end
  after = '(' .. ids[#ids]
end
