-- include: outbox_keys
-- ARGV: lane, number, the number as it is in `by state`. Answers 1 if one with a smaller number waits or may still come, else 0.
-- Posts and deliveries of a queue have one hash tag, so in a Cluster too they are in one slot, and this script and `expand` run
-- one after the other. Each question is about the first of an index; only of posts on lease all are looked at, which are a few
-- for each notifier that runs.
local number, waiting = tonumber(ARGV[2]), ARGV[1] .. ':w:'
if call('ZRANGEBYLEX', PREFIX .. 'u', '[' .. waiting, '(' .. waiting .. ARGV[3], 'LIMIT', 0, 1)[1] then
  return 1
end
if (tonumber(call('ZRANGE', PREFIX .. 'i', 0, 0)[1]) or huge) < number then
  return 1
end
local from, leased = 0
repeat
  leased = call('ZRANGE', PREFIX .. 'j', from, from + CHUNK - 1)
  for _, first in ipairs(leased) do
    if tonumber(first) < number then
      return 1
    end
  end
  from = from + CHUNK
until #leased < CHUNK
return 0
