-- Write what became of deliveries.
-- KEYS: see outbox_keys. ARGV: owner, now, then id and state of each. Reply: 1.
-- A delivery that another notifier owns is left alone. The new states have no owner, so a second run changes nothing.
-- include: outbox_keys
-- include: subscription_backlog
local owner, now = ARGV[1], tonumber(ARGV[2])
for at = 3, #ARGV, 2 do
  local id, state = ARGV[at], ARGV[at + 1]
  local before = call('HGET', PREFIX .. 'delivery_states', id)
  if before then
    local old_code, old_due, _, _, owned_by = read(before)
    if owned_by == owner then
      local code, _, keep = read(state)
      take_out(id, old_code, old_due)
      if code ~= WAITING and keep <= now then -- 0 stands for None, and is not after now either
        remove(id)
      else
        put_in(id, state)
      end
    end
  end
end
place_all()
return 1
