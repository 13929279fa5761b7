-- Lease posts of a queue to a notifier.
-- KEYS: see outbox_keys. ARGV: now, end of the lease, limit. Reply: first number, post and position (or nil) of each.
-- A post is either in posts_free or in posts_leased, so a second caller gets the posts after these. If the answer is lost, the posts
-- come again when their leases are over. A queue that has more goes behind the queues that have waited since before `now`.
-- include: outbox_keys
-- include: place_posts
local now, until_ = tonumber(ARGV[1]), ARGV[2]
local over = call('ZRANGEBYSCORE', PREFIX .. 'posts_leased', '-inf', ARGV[1], 'LIMIT', 0, CHUNK)
for _, number in ipairs(over) do
  call('ZREM', PREFIX .. 'posts_leased', number)
  call('ZADD', PREFIX .. 'posts_free', number, number)
end
local numbers = call('ZRANGE', PREFIX .. 'posts_free', 0, min(tonumber(ARGV[3]), CHUNK) - 1)
local reply = {}
if #numbers > 0 then
  local posts = call('HMGET', PREFIX .. 'posts', unpack(numbers))
  local positions = call('HMGET', PREFIX .. 'post_positions', unpack(numbers))
  call('ZREM', PREFIX .. 'posts_free', unpack(numbers))
  for at, number in ipairs(numbers) do
    call('ZADD', PREFIX .. 'posts_leased', until_, number)
    reply[3 * at - 2], reply[3 * at - 1], reply[3 * at] = number, posts[at], positions[at]
  end
end
place_posts(ARGV[1])
return reply
