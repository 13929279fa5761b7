-- KEYS: the end of the lease of each node by id (a sorted set; 0 for a condemned node); the rows of nodes that are not
-- condemned by id (a hash); the subscriptions of one node (a sorted set whose scores are all 0).
local call = redis.call
local EXPIRES, ROWS, SUBSCRIPTIONS = KEYS[1], KEYS[2], KEYS[3]
