-- Read live subscriptions of a queue in the order of their ids.
-- KEYS: see subscription_keys. ARGV: the id after which to begin, limit, now. Reply: the records. It only reads.
-- include: subscription_keys
local after, limit, now, records = '(' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
while true do
  local size = math.min(limit - #records, 1000)
  local ids = redis.call('ZRANGEBYLEX', IDS, after, '+', 'LIMIT', 0, size)
  if #ids == 0 then
    return records
  end
  for _, record in ipairs(redis.call('HMGET', RECORDS, unpack(ids))) do
    local _, expires = parts_of(record)
    if now < expires then
      records[#records + 1] = record
    end
  end
  if #records == limit or #ids < size then
    return records
  end
  after = '(' .. ids[#ids]
end
