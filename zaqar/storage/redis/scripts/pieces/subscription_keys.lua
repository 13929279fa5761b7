-- KEYS, all of one queue: subscriptions (sorted set of ids, all scores 0), subscription_records (hash by id), subscribers (hash: id by
-- subscriber).
-- A record is: version, when it expires, length of the subscriber, a line feed, the subscriber, the whole as JSON.
-- An expired subscription stays until it is deleted, but another one may have its subscriber then.
local IDS, RECORDS, SUBSCRIBERS = KEYS[1], KEYS[2], KEYS[3]

-- Returns version, when it expires, subscriber.
local function parts_of(record)
  local version, expires, length, head = string.match(record, '^(%S+) (%S+) (%d+)\n()')
  return version, tonumber(expires), string.sub(record, head, head + length - 1)
end

-- Returns id and record of the live subscription with this subscriber, or nil.
local function live_with(subscriber, now)
  local id = redis.call('HGET', SUBSCRIBERS, subscriber)
  local record = id and redis.call('HGET', RECORDS, id)
  if record then
    local _, expires = parts_of(record)
    if now < expires then
      return id, record
    end
  end
end

-- Release the subscriber, unless another subscription has it already.
local function release_subscriber(id, subscriber)
  if redis.call('HGET', SUBSCRIBERS, subscriber) == id then
    redis.call('HDEL', SUBSCRIBERS, subscriber)
  end
end
