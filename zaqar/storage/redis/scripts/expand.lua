-- include: outbox_keys
-- include: lanes
-- include: place_posts
-- ARGV: first number of the post, '1' to forget it, then id, record and state of each delivery.
local first = ARGV[1]
if call('HEXISTS', PREFIX .. 'p', first) == 0 then
  return 0
end
for at = 3, #ARGV, 3 do
  if not is_dropped((split(ARGV[at]))) and call('HSETNX', PREFIX .. 'b', ARGV[at], ARGV[at + 1]) == 1 then
    put_in(ARGV[at], ARGV[at + 2])
  end
end
if #ARGV > 2 then
  place()
end
if ARGV[2] == '1' then
  call('HDEL', PREFIX .. 'p', first)
  call('ZREM', PREFIX .. 'i', first)
  call('ZREM', PREFIX .. 'j', first)
  -- Only where it changes: others of the queue may be free, since whenever.
  if call('EXISTS', PREFIX .. 'i') == 0 then
    place_posts()
  end
end
return 1
