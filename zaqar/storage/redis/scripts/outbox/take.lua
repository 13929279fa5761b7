-- include: outbox_keys
-- include: place_posts
-- ARGV: now, end of the lease, limit. Answers first number, post and place (or nothing) of each that is taken.
-- A queue that has more goes behind those that have waited since before `now`.
local now, until_ = tonumber(ARGV[1]), ARGV[2]
local over = call('ZRANGEBYSCORE', PREFIX .. 'j', '-inf', ARGV[1], 'LIMIT', 0, CHUNK)
for _, number in ipairs(over) do
  call('ZREM', PREFIX .. 'j', number)
  call('ZADD', PREFIX .. 'i', number, number)
end
local numbers = call('ZRANGE', PREFIX .. 'i', 0, min(tonumber(ARGV[3]), CHUNK) - 1)
local reply = {}
if #numbers > 0 then
  local posts, places = call('HMGET', PREFIX .. 'p', unpack(numbers)), call('HMGET', PREFIX .. 't', unpack(numbers))
  call('ZREM', PREFIX .. 'i', unpack(numbers))
  for at, number in ipairs(numbers) do
    call('ZADD', PREFIX .. 'j', until_, number)
    reply[3 * at - 2], reply[3 * at - 1], reply[3 * at] = number, posts[at], places[at]
  end
end
place_posts(ARGV[1])
return reply
