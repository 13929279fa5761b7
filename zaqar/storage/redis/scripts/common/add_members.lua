-- Add members to a set.
-- KEYS: the set. ARGV: the members. Reply: how many were new.
-- It is a script and no plain command, so that it waits for replicas like the record that a reader finds by it: in a Cluster the set
-- is on another master, and a fail-over that loses the set and not the record would hide the record.
return redis.call('SADD', KEYS[1], unpack(ARGV))
