-- Store a piece of a post: its deliveries, and how far the post is expanded with them.
-- KEYS: see outbox_keys.
-- ARGV: first number of the post, the position that has to be stored, the position that is stored then ('' for NOT_EXPANDED), the end
-- of the lease or '' to forget the post, then id, record and state of each delivery.
-- Reply: 1, or 0 if the post is gone or its position is another; then nothing was changed.
-- Deliveries and position change in one script. So a crash before it leaves the position from which the next notifier makes the same
-- piece again, and a crash after it leaves the next position. Of two notifiers that hold the same post (one of them late) only the
-- first stores the piece; the other finds another position and must send nothing. To run it twice changes nothing: the second run
-- finds another position, or without a new one stores deliveries that are there already, which HSETNX leaves as they are.
-- include: outbox_keys
-- include: subscription_backlog
-- include: place_posts
local first, from, to, until_ = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if call('HEXISTS', PREFIX .. 'posts', first) == 0 or (call('HGET', PREFIX .. 'post_positions', first) or '') ~= from then
  return 0
end
for at = 5, #ARGV, 3 do
  if not is_dropped((split(ARGV[at]))) and call('HSETNX', PREFIX .. 'delivery_records', ARGV[at], ARGV[at + 1]) == 1 then
    put_in(ARGV[at], ARGV[at + 2])
  end
end
if #ARGV > 4 then
  place_all()
end
call('ZREM', PREFIX .. 'posts_free', first)
if until_ == '' then
  call('ZREM', PREFIX .. 'posts_leased', first)
  call('HDEL', PREFIX .. 'posts', first)
  call('HDEL', PREFIX .. 'post_positions', first)
else
  call('ZADD', PREFIX .. 'posts_leased', until_, first)
  if to ~= '' then
    call('HSET', PREFIX .. 'post_positions', first, to)
  else
    call('HDEL', PREFIX .. 'post_positions', first)
  end
end
-- If another post of the queue is free, the queue stays in POSTED as it is, since the time when that one became free.
if call('EXISTS', PREFIX .. 'posts_free') == 0 then
  place_posts()
end
return 1
