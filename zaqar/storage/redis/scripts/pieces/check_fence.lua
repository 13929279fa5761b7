-- Generation; last number; lower bounds of the next timer: of one that changes what is seen, and of any (the agenda's); and until
-- when a client may be waiting for the queue.
local fence = call('HMGET', FENCE, 'g', 'n', 'a', 'b', 'w')
if fence[1] ~= ARGV[1] then
  return STALE
end
