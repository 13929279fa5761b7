-- Where the queue is among those with posts: since `free_since` if it has some that are free, else when a lease of one ends.
local function place_posts(free_since)
  local moment = call('EXISTS', PREFIX .. 'i') == 1 and free_since or call('ZRANGE', PREFIX .. 'j', 0, 0, 'WITHSCORES')[2]
  if moment then
    call('ZADD', POSTED, moment, UID)
  else
    call('ZREM', POSTED, UID)
  end
end
