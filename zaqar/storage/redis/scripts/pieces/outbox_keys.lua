-- KEYS[1] is one of the keys of a queue's outbox. They are all under its hash tag and have the same name but for the last letter:
--   p posts      hash by their first number                t places   hash by first number: up to where they are expanded
--                                                          i free     those nobody has on lease, by number
--                                                          j leased   those on lease by when that ends
--   b records    hash by id: what is written once          g states   hash by id: what changes, see DELIVERY
--   w WAITING    lane, ':', due, number                    u by state lane, ':', letter of the state, ':', number
--   n next       lanes by when they have something due     h at hand  lanes that have, in the order of their turns
--   q kept       ids of what is settled by when it is removed
--   a dropped    lanes of dropped subscriptions by when a sweep looks at them, see sweep_deliveries.lua
-- A lane is the deliveries of one subscription, and named like it; a number has 12 hexadecimal digits; an id is lane, ':', number.
-- In WAITING and `by state` all scores are 0, so a lane is a range of them. All lanes are in the same keys, so that a script can be
-- given all it uses. Four keys are of the store, or in a Cluster of the slot: which queues have a post that is free, by when; have
-- something due, by when; have that at hand, by turn; have something to remove, by when. FENCE is the fence of the queue, which
-- is read only.
local call, format, sub, min, huge = redis.call, string.format, string.sub, math.min, math.huge
local PREFIX = sub(KEYS[1], 1, -2)
local UID = string.match(PREFIX, '{(.-)}')
local POSTED, DUE, TURNS, KEPT = KEYS[13] or 'zaqar:posted', KEYS[14] or 'zaqar:due', KEYS[15] or 'zaqar:turns', KEYS[16] or 'zaqar:kept'
local FENCE = KEYS[17] or PREFIX .. 'f'
local CHUNK = 1000 -- arguments of one command: Lua's stack takes 8000
