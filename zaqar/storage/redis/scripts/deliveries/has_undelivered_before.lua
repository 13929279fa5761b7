-- Tell whether a message with a smaller number is still to be delivered to a subscription.
-- KEYS: see outbox_keys. ARGV: subscription, number, the number as in deliveries_by_state, how many deliveries that do not count may be
-- passed over, and the due time from which on a delivery does not count, or ''. Reply: 1 or 0. It only reads.
-- Posts and deliveries of a queue are in one slot, so this script and outbox/expand run one after the other: a message is a post or
-- a delivery at each moment, and is seen. The script reads only the beginning of an index, and all posts on lease, of which each
-- running notifier has a few.
-- include: outbox_keys
-- include: subscription_backlog
local subscription, number, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local due_before = tonumber(ARGV[5]) or huge
local posts = call('ZRANGE', PREFIX .. 'posts_free', 0, 0)
local from = 0
repeat
  for _, first in ipairs(posts) do
    if tonumber(first) < number then
      return 1
    end
  end
  posts = call('ZRANGE', PREFIX .. 'posts_leased', from, from + CHUNK - 1)
  from = from + CHUNK
until #posts == 0

local range, passed = subscription .. ':' .. WAITING .. ':', 0
while passed < most do
  -- Mostly the first one counts, so read one and then many.
  local size = passed == 0 and 1 or min(100, most - passed)
  local to = '(' .. range .. ARGV[3]
  local found = call('ZRANGEBYLEX', PREFIX .. 'deliveries_by_state', '[' .. range, to, 'LIMIT', passed, size)
  for _, member in ipairs(found) do
    local _, due = read(call('HGET', PREFIX .. 'delivery_states', subscription .. ':' .. sub(member, -12)))
    if due < due_before then
      return 1
    end
  end
  passed = passed + #found
  if #found < size then
    return 0
  end
end
return 1
