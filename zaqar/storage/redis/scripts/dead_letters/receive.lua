-- include: keys
-- include: fence
-- include: timers
-- include: many
-- include: append
-- ARGV: generation, now, until when the ids are remembered, then for each letter its id, its record, its end of life, and what is
-- kept of it until its deliveries are made, or ''; see post.lua
local records, lives, posts, first = {}, {}, {}, tonumber(ARGV[3])
for at = 4, #ARGV, 4 do
  local id = ARGV[at]
  if not call('ZSCORE', PREFIX .. 'v', id) then
    call('ZADD', PREFIX .. 'v', ARGV[3], id)
    records[#records + 1] = ARGV[at + 1]
    lives[#lives + 1] = ARGV[at + 2]
    posts[#posts + 1] = ARGV[at + 3]
    first = min(first, tonumber(ARGV[at + 2]))
  end
end
if #records > 0 then
  append(PREFIX, tonumber(fence[2]), records, lives)
  -- include: note
  -- include: wake
  if posts[1] ~= '' then
    for place = 1, #posts do
      local number = format('%.0f', tonumber(fence[2]) + place)
      call('HSET', PREFIX .. 'p', number, posts[place])
      call('ZADD', PREFIX .. 'i', number, number)
    end
    call('ZADD', KEYS[19] or 'zaqar:posted', 'LT', now, string.match(FENCE, '{(.-)}'))
  end
end
return #records
