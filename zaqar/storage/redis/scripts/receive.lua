-- include: keys fence timers append
-- ARGV: generation, now, until when the ids are remembered, then for each letter its id, its record, its end of life
local records, lives, received, first = {}, {}, {}, huge
for at = 4, #ARGV, 3 do
  local id = ARGV[at]
  if not call('ZSCORE', RECEIVED, id) then
    call('ZADD', RECEIVED, ARGV[3], id)
    records[#records + 1] = ARGV[at + 1]
    lives[#lives + 1] = ARGV[at + 2]
    first = min(first, tonumber(ARGV[at + 2]))
  end
end
if #records > 0 then
  append(FENCE, RECORDS, READY, LIFE, tonumber(fence[2]), records, lives)
  note(first)
end
return #records
