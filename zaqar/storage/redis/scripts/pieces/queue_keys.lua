-- KEYS[1] is the fence of the queue. Its other keys have the same name but for the last letter, so the same hash tag:
--   f fence      hash: generation, last number, lower bounds of the next timer, until when a client may be waiting;
--                of a dropped queue the end of its tombstone
--   m records    hash by number: what is written once      s states   hash by number: what changes, see states.lua
--   r READY      by number                                 l lives    their numbers by when they expire
--   c CLAIMED    by number
--   o DELAYED    by number                                 d due      their numbers by when the delay, or the life, ends
--   k claims     hash by id                                e ends     their ids by when they end
--   x set aside  numbers in the order they came            y letters  hash by number
--   v received   ids of dead letters by when they are forgotten
--   z expired    numbers whose records are still to be removed
-- A script makes the names it uses, which is faster than being given all. In a Cluster it is given all as well, so that a node
-- that is moving the slot refuses the script before it has written anything.
local call, format, sub, min, huge = redis.call, string.format, string.sub, math.min, math.huge
local FENCE = KEYS[1]
local PREFIX = sub(FENCE, 1, -2)

local STALE, AGAIN, STALE_GRAVE, DROPPED, OVER, HELD, ABSENT, WORN_OUT, IS_SEALED = -1, -2, -3, -4, -5, -6, -7, -8, -9
local CHUNK = 1000 -- arguments of one command: Lua's stack takes 8000
local BATCH = 500 -- messages that one script ripens, buries or removes beside its own work

local now = tonumber(ARGV[2])
