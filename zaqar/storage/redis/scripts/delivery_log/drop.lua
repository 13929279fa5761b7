-- Make all deliveries of subscriptions unreachable, and leave a tombstone for each subscription.
-- KEYS: see outbox_keys. ARGV: the subscriptions. Reply: how many, or 0 if the queue was dropped.
-- They lose their turns, so no notifier finds their deliveries. The score 0 of a tombstone makes a sweep look as soon as it can. The
-- cost does not depend on the number of deliveries. Idempotent; a second run makes the sweep look once more.
-- include: outbox_keys
-- include: subscription_backlog
if call('HEXISTS', FENCE, 'tombstone_until') == 1 then
  return 0 -- queues/drop has removed all deliveries, and no more can be stored
end
for _, subscription in ipairs(ARGV) do
  call('ZREM', PREFIX .. 'backlogs_due', subscription)
  call('ZREM', PREFIX .. 'backlogs_in_turn', subscription)
  call('ZADD', PREFIX .. 'dropped_subscriptions', 0, subscription)
end
place_queue()
place_kept()
return #ARGV
