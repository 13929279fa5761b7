-- Put the queue into POSTED: since `free_since` if it has a post that is free, else by the time when the first lease ends.
local function place_posts(free_since)
  local time = call('EXISTS', PREFIX .. 'posts_free') == 1 and free_since
    or call('ZRANGE', PREFIX .. 'posts_leased', 0, 0, 'WITHSCORES')[2]
  if time then
    call('ZADD', POSTED, time, UID)
  else
    call('ZREM', POSTED, UID)
  end
end
