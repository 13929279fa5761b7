-- include: outbox_keys
-- include: lanes
-- include: place_posts
-- ARGV: first number of the post, the place up to which it has to be expanded, the place up to which it is then ('' for none
-- yet), the end of its lease or '' to forget it, then id, record and state of each delivery. Answers whether it was at that place.
local first, here, there, until_ = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if call('HEXISTS', PREFIX .. 'p', first) == 0 or (call('HGET', PREFIX .. 't', first) or '') ~= here then
  return 0
end
for at = 5, #ARGV, 3 do
  if not is_dropped((split(ARGV[at]))) and call('HSETNX', PREFIX .. 'b', ARGV[at], ARGV[at + 1]) == 1 then
    put_in(ARGV[at], ARGV[at + 2])
  end
end
if #ARGV > 4 then
  place()
end
call('ZREM', PREFIX .. 'i', first)
if until_ == '' then
  call('ZREM', PREFIX .. 'j', first)
  call('HDEL', PREFIX .. 'p', first)
  call('HDEL', PREFIX .. 't', first)
else
  call('ZADD', PREFIX .. 'j', until_, first)
  if there ~= '' then
    call('HSET', PREFIX .. 't', first, there)
  else
    call('HDEL', PREFIX .. 't', first)
  end
end
-- Only where it changes: others of the queue may be free, since whenever.
if call('EXISTS', PREFIX .. 'i') == 0 then
  place_posts()
end
return 1
