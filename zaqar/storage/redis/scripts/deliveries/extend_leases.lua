-- Set the end of leases.
-- KEYS: see outbox_keys. ARGV: owner, end of the lease, ids. Reply: 1. Idempotent.
-- A delivery that another notifier took, because the lease was over, has another owner and is left alone.
-- include: outbox_keys
-- include: subscription_backlog
local owner, until_ = ARGV[1], tonumber(ARGV[2])
for at = 3, #ARGV do
  local id = ARGV[at]
  local state = call('HGET', PREFIX .. 'delivery_states', id)
  if state then
    local code, due, keep, tries, owned_by, attempts = read(state)
    if owned_by == owner and code == WAITING then
      take_out(id, code, due)
      put_in(id, write(code, until_, keep, tries, owner, attempts))
    end
  end
end
place_backlogs()
place_queue()
return 1
