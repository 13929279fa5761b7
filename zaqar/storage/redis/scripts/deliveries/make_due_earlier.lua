-- include: outbox_keys
-- include: lanes
-- ARGV: for each its id, when it has to be due, and when it is due from now on. Answers how many were changed.
local changed = 0
for at = 1, #ARGV, 3 do
  local id = ARGV[at]
  local state = call('HGET', PREFIX .. 'g', id)
  if state then
    local letter, due, keep, tries, _, attempts = read(state)
    if letter == 'w' and due == tonumber(ARGV[at + 1]) then
      take_out(id, letter, due)
      put_in(id, write(letter, tonumber(ARGV[at + 2]), keep, tries, '', attempts))
      changed = changed + 1
    end
  end
end
place_lanes()
place_queue()
return changed
