-- Append messages to a queue, all or none.
-- KEYS: see queue_keys; in a Cluster, if the queue is notified, KEYS[17] to KEYS[19] are posts, posts_free and POSTED of outbox_keys.
-- ARGV: generation, now; for each draft its record, when it expires, and when its delay ends or ''; if the queue is notified, one
-- more: the post as it is kept until its deliveries are made, see outbox_keys.
-- Reply: the last number.
-- A second run would store the messages a second time, so it is never sent again after a lost answer. All numbers of a queue are
-- given here and in append_messages, inside of a script: in order, without gaps, each once.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: message_formats
-- include: call_in_chunks
-- A post that passes a multiple of this number removes twice as many dead messages, so a queue that nobody reads stays small.
local TIDY_EVERY = 64

local last = tonumber(fence[2])
local drafts = math.floor((#ARGV - 2) / 3)
local posted = #ARGV > 3 * drafts + 2 and format('%.0f', last + 1) -- first number of the post, if the queue is notified
local rounds = math.floor((last % TIDY_EVERY + drafts) / TIDY_EVERY)
if rounds > 0 then
  -- include: promote_due
  -- include: clear_expired
  promote_due(2 * TIDY_EVERY * rounds)
  clear_expired(2 * TIDY_EVERY * rounds)
end

local records, ready, expiry, first = {}, {}, {}, huge
local due, delayed, states, number
for at = 3, 3 * drafts, 3 do
  last = last + 1
  number = format('%.0f', last)
  local expires, delay_ends = ARGV[at + 1], ARGV[at + 2]
  local moment = tonumber(expires)
  records[#records + 1] = number
  records[#records + 1] = ARGV[at]
  if delay_ends == '' then
    ready[#ready + 1] = number
    ready[#ready + 1] = number
    expiry[#expiry + 1] = expires
    expiry[#expiry + 1] = number
  else
    due, delayed, states = due or {}, delayed or {}, states or {}
    states[#states + 1] = number
    states[#states + 1] = pack_struct(STATE, moment, tonumber(delay_ends), 0)
    moment = min(moment, tonumber(delay_ends))
    due[#due + 1] = moment
    due[#due + 1] = number
    delayed[#delayed + 1] = number
    delayed[#delayed + 1] = number
  end
  first = min(first, moment)
end
call_in_chunks('HSET', PREFIX .. 'messages', records)
call_in_chunks('ZADD', PREFIX .. 'ready', ready)
call_in_chunks('ZADD', PREFIX .. 'expiry', expiry)
if due then
  call_in_chunks('HSET', PREFIX .. 'states', states)
  call_in_chunks('ZADD', PREFIX .. 'due', due)
  call_in_chunks('ZADD', PREFIX .. 'delayed', delayed)
end
call('HSET', FENCE, 'last', number or fence[2])
-- include: schedule
-- include: wake_clients
if posted then
  call('HSET', PREFIX .. 'posts', posted, ARGV[#ARGV])
  call('ZADD', PREFIX .. 'posts_free', posted, posted)
  call('ZADD', KEYS[19] or 'zaqar:posted', 'LT', now, string.match(FENCE, '{(.-)}'))
end
return last
