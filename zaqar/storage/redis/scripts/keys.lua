-- The keys of a queue, all under its hash tag, then the two of the store that lie in the same slot. See docs/stores/redis.rst.
-- Scripts get every key they may touch, so that a Cluster that is moving the slot refuses a script before it has written.
local FENCE, RECORDS, STATES, READY, LIFE, CLAIMED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DUE, DELAYED, CLAIMS, ENDS, ASIDE, LETTERS = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local RECEIVED, QUEUES, AGENDA = KEYS[13], KEYS[14], KEYS[15]

local call, format, sub, min, huge = redis.call, string.format, string.sub, math.min, math.huge

local STALE, AGAIN, STALE_GRAVE, DROPPED, OVER, HELD, ABSENT, WORN_OUT = -1, -2, -3, -4, -5, -6, -7, -8
local CHUNK = 1000 -- arguments of one command: Lua's stack takes 8000
local BATCH = 500 -- messages that one script ripens, buries or removes beside its own work

local function uid_of(fence_key)
  return string.match(fence_key, '{(.-)}')
end

-- A command with a long list of arguments; of pairs as well, for CHUNK is even.
local function many(command, key, list)
  for from = 1, #list, CHUNK do
    call(command, key, unpack(list, from, min(from + CHUNK - 1, #list)))
  end
end

local now = tonumber(ARGV[2])
