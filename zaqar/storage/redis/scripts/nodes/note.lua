-- Note a subscription of a connection of a node.
-- KEYS: see node_keys. ARGV: id, subscription. Reply: 1, or 0 if the node is absent or condemned; then nothing was written. Idempotent.
-- include: node_keys
if call('HEXISTS', RECORDS, ARGV[1]) == 0 then
  return 0
end
call('ZADD', SUBSCRIPTIONS, 0, ARGV[2])
return 1
