-- KEYS[1] is the fence of the queue. All keys of a queue have the same name but for the last word, so the same hash tag:
--   fence               hash, see check_fence; of a dropped queue only the field tombstone_until
--   messages            hash by number: the record of a message, written once, see message_formats
--   states              hash by number: the state of a message, which changes, see message_formats
--   ready               sorted set: numbers of READY messages by number
--   expiry              sorted set: the same numbers by the time when they expire
--   claimed             sorted set: numbers of claimed messages by number
--   delayed             sorted set: numbers of delayed messages by number
--   due                 sorted set: the same numbers by the time when the delay ends, or the life if that is earlier
--   claims              hash by claim id, see message_formats
--   claim_ends          sorted set: claim ids by the time when the claim is over
--   set_aside           sorted set: numbers of dead letters on their way to another queue, in the order they were set aside
--   set_aside_messages  hash by number: claim count and record of these
--   received            sorted set: ids of dead letters that came from another queue, by the time when they are forgotten
--   expired             sorted set: numbers of expired messages whose records are still to be removed
-- A script makes the names that it uses, which is faster than to receive all of them. In a Cluster it receives all of them as
-- well, so that a node that is moving the slot can refuse the script before it has written anything.
--
-- ARGV[1] is the generation of the caller's copy of the queue, ARGV[2] the caller's time in seconds since the epoch.
--
-- Redis runs one script at a time, to its end, and writes its changes to the append-only file as one transaction. So a second
-- caller sees all of them or none, and so does a server that starts after a crash.
local call, format, sub, min, huge = redis.call, string.format, string.sub, math.min, math.huge
local FENCE = KEYS[1]
local PREFIX = sub(FENCE, 1, -6) -- without the word 'fence'

-- What a script replies instead of a result. zaqar/storage/redis/core.py has the same numbers.
local STALE, MORE_IS_DUE, STALE_DEAD_LETTER_QUEUE, DROPPED = -1, -2, -3, -4
local CLAIM_OVER, IS_CLAIMED, NO_CLAIM, HAS_EXHAUSTED, IS_SEALED = -5, -6, -7, -8, -9
local CHUNK = 1000 -- arguments of one command: Lua's stack takes 8000
local BATCH = 500 -- messages that one script promotes, moves or removes beside its own work

local now = tonumber(ARGV[2])
