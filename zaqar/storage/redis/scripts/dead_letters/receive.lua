-- Hand-over, second step: append dead letters to the queue that receives them, each once.
-- KEYS: see queue_keys; in a Cluster, if the queue is notified, KEYS[17] to KEYS[19] as in messages/post.
-- ARGV: generation, now, until when the ids are remembered, then for each letter its id, its record, when it expires, and the post that
-- is kept of it until its deliveries are made, or ''. Reply: how many were new.
-- Idempotent: the id of a letter is remembered in the same script that appends the letter, so it is appended once, however many
-- processes send it. Without letters the script only compares the fence.
-- include: queue_keys
-- include: check_fence
-- include: timers
-- include: call_in_chunks
-- include: append_messages
local records, expiries, posts, first = {}, {}, {}, tonumber(ARGV[3])
for at = 4, #ARGV, 4 do
  local id = ARGV[at]
  if not call('ZSCORE', PREFIX .. 'received', id) then
    call('ZADD', PREFIX .. 'received', ARGV[3], id)
    records[#records + 1] = ARGV[at + 1]
    expiries[#expiries + 1] = ARGV[at + 2]
    posts[#posts + 1] = ARGV[at + 3]
    first = min(first, tonumber(ARGV[at + 2]))
  end
end
if #records > 0 then
  append_messages(PREFIX, tonumber(fence[2]), records, expiries)
  -- include: schedule
  -- include: wake_clients
  if posts[1] ~= '' then
    for place = 1, #posts do
      local number = format('%.0f', tonumber(fence[2]) + place)
      call('HSET', PREFIX .. 'posts', number, posts[place])
      call('ZADD', PREFIX .. 'posts_free', number, number)
    end
    call('ZADD', KEYS[19] or 'zaqar:posted', 'LT', now, string.match(FENCE, '{(.-)}'))
  end
end
return #records
