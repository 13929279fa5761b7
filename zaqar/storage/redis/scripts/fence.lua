-- generation, last number, and lower bounds of the next timer: of one that changes what is seen, and of any (the agenda's)
local fence = call('HMGET', FENCE, 'g', 'n', 'a', 'b')
if fence[1] ~= ARGV[1] then
  return STALE
end
