-- include: keys
-- include: fence
-- include: timers
-- include: many
-- include: append
-- ARGV: generation, now, until when the ids are remembered, then for each letter its id, its record, its end of life
local records, lives, first = {}, {}, tonumber(ARGV[3])
for at = 4, #ARGV, 3 do
  local id = ARGV[at]
  if not call('ZSCORE', PREFIX .. 'v', id) then
    call('ZADD', PREFIX .. 'v', ARGV[3], id)
    records[#records + 1] = ARGV[at + 1]
    lives[#lives + 1] = ARGV[at + 2]
    first = min(first, tonumber(ARGV[at + 2]))
  end
end
if #records > 0 then
  append(PREFIX, tonumber(fence[2]), records, lives)
  -- include: note
end
return #records
