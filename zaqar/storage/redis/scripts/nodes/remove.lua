-- Remove a node, condemned or not, and all its notes.
-- KEYS: see node_keys. ARGV: id. Reply: 1 if it had notes. Idempotent.
-- include: node_keys
call('HDEL', RECORDS, ARGV[1])
call('ZREM', EXPIRES, ARGV[1])
return call('UNLINK', SUBSCRIPTIONS)
