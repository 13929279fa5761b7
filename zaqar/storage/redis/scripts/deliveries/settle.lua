-- include: outbox_keys
-- include: lanes
-- ARGV: owner, now, then id and state of each. What the owner says counts while it is the owner.
local owner, now = ARGV[1], tonumber(ARGV[2])
for at = 3, #ARGV, 2 do
  local id, state = ARGV[at], ARGV[at + 1]
  local before = call('HGET', PREFIX .. 'g', id)
  if before then
    local old_letter, old_due, _, _, owned_by = read(before)
    if owned_by == owner then
      local letter, _, keep = read(state)
      take_out(id, old_letter, old_due)
      if letter ~= 'w' and keep <= now then -- which 0, for None, is
        remove(id)
      else
        put_in(id, state)
      end
    end
  end
end
place()
return 1
