-- include: node_keys
-- ARGV: subscriptions
return call('ZREM', SUBSCRIPTIONS, unpack(ARGV))
