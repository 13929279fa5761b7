-- KEYS: expires (sorted set: nodes by the end of their lease, 0 for a condemned node), records (hash by node id, of nodes that are
-- not condemned), subscriptions (sorted set of one node: its notes, all scores 0).
local call = redis.call
local EXPIRES, RECORDS, SUBSCRIPTIONS = KEYS[1], KEYS[2], KEYS[3]
