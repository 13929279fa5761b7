-- Remove all posts and deliveries of the queue, and the queue from the lists. UNLINK gives the memory back in a thread of the server.
for _, key in ipairs({ POSTED, DUE, TURNS, KEPT }) do
  call('ZREM', key, UID)
end
for _, word in ipairs({
  'posts', 'post_positions', 'posts_free', 'posts_leased', 'delivery_records', 'delivery_states', 'deliveries_waiting',
  'deliveries_by_state', 'backlogs_due', 'backlogs_in_turn', 'deliveries_kept', 'dropped_subscriptions',
}) do
  call('UNLINK', PREFIX .. word)
end
