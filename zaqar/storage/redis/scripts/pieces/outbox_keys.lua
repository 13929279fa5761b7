-- KEYS[1] is the key `posts` of the queue. The keys for posts and deliveries have the same name but for the last word:
--   posts                  hash by first number: a post that has to be expanded into deliveries
--   post_positions         hash by first number: how far the post is expanded; absent if not at all
--   posts_free             sorted set: first numbers of posts that nobody has on lease, by number
--   posts_leased           sorted set: first numbers of posts on lease, by the time when the lease ends
--   delivery_records       hash by id: what is written once
--   delivery_states        hash by id: what changes, see subscription_backlog
--   deliveries_waiting     sorted set of: subscription, ':', due, number; all scores are 0
--   deliveries_by_state    sorted set of: subscription, ':', code of the state, ':', number; all scores are 0
--   backlogs_due           sorted set: subscriptions by the time when they have something due
--   backlogs_in_turn       sorted set: subscriptions that have something due, by turn
--   deliveries_kept        sorted set: ids of settled deliveries by the time when they are removed
--   dropped_subscriptions  sorted set: tombstones of subscriptions by the time when a sweep looks at them, see sweep_deliveries
-- A number has 12 hexadecimal digits; the id of a delivery is: subscription, ':', number. So the deliveries of one subscription are
-- a range of the sets whose scores are 0. Those of all subscriptions are in the same keys, because a Cluster demands that a script
-- is given all keys that it uses.
-- Four lists are of the store, or in a Cluster of the slot. They have the uids of queues: POSTED those with posts, by the time since
-- when one is free, or when the first lease ends; DUE those with deliveries, by the time when the first is due; TURNS those that
-- have due deliveries, by turn; KEPT those with something to remove, by time.
-- FENCE is the fence of the queue, of which these scripts only read whether the queue was dropped.
-- As with every script, a second caller and a server that starts after a crash see all changes of a script or none.
local call, format, sub, min, huge = redis.call, string.format, string.sub, math.min, math.huge
local PREFIX = sub(KEYS[1], 1, -6) -- without the word 'posts'
local UID = string.match(PREFIX, '{(.-)}')
local POSTED, DUE = KEYS[13] or 'zaqar:posted', KEYS[14] or 'zaqar:due'
local TURNS, KEPT = KEYS[15] or 'zaqar:turns', KEYS[16] or 'zaqar:kept'
local FENCE = KEYS[17] or PREFIX .. 'fence'
local CHUNK = 1000 -- arguments of one command: Lua's stack takes 8000
