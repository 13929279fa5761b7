-- include: subscription_keys
-- ARGV: for each an id and a subscriber. Answers for each the row that was removed, 0 where there was none, or -1 where
-- it has another subscriber, and stays.
local answers = {}
for at = 1, #ARGV, 2 do
  local id = ARGV[at]
  local row = redis.call('HGET', KEYS[2], id)
  if not row then
    answers[#answers + 1] = 0
  else
    local _, _, subscriber = parts_of(row)
    if subscriber == ARGV[at + 1] then
      give_up(id, subscriber)
      redis.call('HDEL', KEYS[2], id)
      redis.call('ZREM', KEYS[1], id)
      answers[#answers + 1] = row
    else
      answers[#answers + 1] = -1
    end
  end
end
return answers
