-- Make waiting deliveries of a subscription due earlier.
-- KEYS: see outbox_keys. ARGV: for each its id, the due time that the caller has read, and the new one. Reply: how many were changed.
-- A delivery whose due time is another was taken, settled or sent again meanwhile, and stays as it is. So a second run changes nothing.
-- include: outbox_keys
-- include: subscription_backlog
local count = 0
for at = 1, #ARGV, 3 do
  local id = ARGV[at]
  local state = call('HGET', PREFIX .. 'delivery_states', id)
  if state then
    local code, due, keep, tries, _, attempts = read(state)
    if code == WAITING and due == tonumber(ARGV[at + 1]) then
      take_out(id, code, due)
      put_in(id, write(code, tonumber(ARGV[at + 2]), keep, tries, '', attempts))
      count = count + 1
    end
  end
end
place_backlogs()
place_queue()
return count
