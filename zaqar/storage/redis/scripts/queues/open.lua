-- Create the fence of a queue, or raise it to a higher generation.
-- KEYS, ARGV: see queue_keys. Reply: the generation in force, or DROPPED if the queue has a live tombstone.
-- Idempotent: a second caller with the same generation gets the same reply. Of two generations the higher one stays, whichever
-- comes first. From now on operations with a lower one reply STALE.
-- include: queue_keys
-- include: store_keys
local fence = call('HMGET', FENCE, 'generation', 'tombstone_until')
if fence[2] then
  if now < tonumber(fence[2]) then
    return DROPPED
  end
  call('DEL', FENCE)
end
local generation = tonumber(fence[1])
if not generation then
  call('HSET', FENCE, 'generation', ARGV[1], 'last', 0)
  call('ZADD', QUEUES, 0, UID)
  return tonumber(ARGV[1])
end
if tonumber(ARGV[1]) > generation then
  call('HSET', FENCE, 'generation', ARGV[1])
  return tonumber(ARGV[1])
end
return generation
