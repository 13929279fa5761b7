-- Remove notes of a node.
-- KEYS: see node_keys. ARGV: the subscriptions. Reply: how many were there. Idempotent.
-- include: node_keys
return call('ZREM', SUBSCRIPTIONS, unpack(ARGV))
