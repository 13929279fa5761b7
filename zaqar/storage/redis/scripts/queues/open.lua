-- include: keys
-- include: store_keys
-- ARGV: generation, now. A fence with `t` is a tombstone, and `t` says until when.
local fence = call('HMGET', FENCE, 'g', 't')
if fence[2] then
  if now < tonumber(fence[2]) then
    return DROPPED
  end
  call('DEL', FENCE)
end
local generation = tonumber(fence[1])
if not generation then
  call('HSET', FENCE, 'g', ARGV[1], 'n', 0)
  call('ZADD', QUEUES, 0, UID)
  return tonumber(ARGV[1])
end
if tonumber(ARGV[1]) > generation then
  call('HSET', FENCE, 'g', ARGV[1])
  return tonumber(ARGV[1])
end
return generation
