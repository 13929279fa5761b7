-- include: outbox_keys
-- include: lanes
-- ARGV: owner, end of the lease, ids
local owner, until_ = ARGV[1], tonumber(ARGV[2])
for at = 3, #ARGV do
  local id = ARGV[at]
  local state = call('HGET', PREFIX .. 'g', id)
  if state then
    local letter, due, keep, tries, owned_by, attempts = read(state)
    if owned_by == owner and letter == 'w' then
      take_out(id, letter, due)
      put_in(id, write(letter, until_, keep, tries, owner, attempts))
    end
  end
end
place_lanes()
place_queue()
return 1
