-- KEYS: when the lease of each node is over, by id (a sorted set), which of a condemned one is 0; the rows of those that are not
-- condemned, by id; and the subscriptions of one node (a sorted set whose scores are all 0).
local call = redis.call
local EXPIRES, ROWS, SUBSCRIPTIONS = KEYS[1], KEYS[2], KEYS[3]
