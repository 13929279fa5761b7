-- include: outbox_keys
-- include: lanes
-- ARGV: now, limit. Removes what was kept long enough; answers how many that were.
local ids = call('ZRANGEBYSCORE', PREFIX .. 'q', '-inf', ARGV[1], 'LIMIT', 0, min(tonumber(ARGV[2]), CHUNK))
for _, id in ipairs(ids) do
  local letter, due = read(call('HGET', PREFIX .. 'g', id))
  take_out(id, letter, due)
  remove(id)
end
place_kept()
return #ids
