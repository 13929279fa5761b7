-- Remove subscriptions whose subscribers are still the given ones.
-- KEYS: see subscription_keys. ARGV: for each an id and a subscriber.
-- Reply: for each the record that was removed, 0 if there was none, or -1 if it has another subscriber, and stays. Idempotent.
-- include: subscription_keys
local answers = {}
for at = 1, #ARGV, 2 do
  local id = ARGV[at]
  local record = redis.call('HGET', RECORDS, id)
  if not record then
    answers[#answers + 1] = 0
  else
    local _, _, subscriber = parts_of(record)
    if subscriber == ARGV[at + 1] then
      release_subscriber(id, subscriber)
      redis.call('HDEL', RECORDS, id)
      redis.call('ZREM', IDS, id)
      answers[#answers + 1] = record
    else
      answers[#answers + 1] = -1
    end
  end
end
return answers
