-- KEYS as in subscription_keys.lua. Answers the rows there were.
local rows = redis.call('HVALS', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
return rows
