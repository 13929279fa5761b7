-- include: keys
-- include: fence
-- include: timers
-- include: states
-- include: many
-- include: ripen
-- ARGV: generation, now, then for each draft its record, its end of life, and the end of its delay or ''. One more word is the
-- post as it is kept until its deliveries are made, see outbox_keys.lua; in a Cluster its keys are then KEYS[17] to KEYS[19].
-- Answers the last number. All numbers of a queue are given out here and in `append`, inside a script: in order, without gaps.
local TIDY_EVERY = 64 -- a post that passes a multiple of this removes twice as many of the dead, so that nobody has to read

local last = tonumber(fence[2])
local drafts = math.floor((#ARGV - 2) / 3)
local noted = #ARGV > 3 * drafts + 2 and format('%.0f', last + 1)
local rounds = math.floor((last + drafts) / TIDY_EVERY) - math.floor(last / TIDY_EVERY)
if rounds > 0 then
  -- include: clear_expired
  settle(2 * TIDY_EVERY * rounds)
  clear_expired(2 * TIDY_EVERY * rounds)
end

local records, ready, life, first = {}, {}, {}, huge
local due, delayed, states
for at = 3, 3 * drafts, 3 do
  last = last + 1
  local number = format('%.0f', last)
  local expires, delay_ends = ARGV[at + 1], ARGV[at + 2]
  local moment = tonumber(expires)
  records[#records + 1] = number
  records[#records + 1] = ARGV[at]
  if delay_ends == '' then
    ready[#ready + 1] = number
    ready[#ready + 1] = number
    life[#life + 1] = expires
    life[#life + 1] = number
  else
    due, delayed, states = due or {}, delayed or {}, states or {}
    states[#states + 1] = number
    states[#states + 1] = pack_struct(STATE, moment, tonumber(delay_ends), 0)
    moment = min(moment, tonumber(delay_ends))
    due[#due + 1] = moment
    due[#due + 1] = number
    delayed[#delayed + 1] = number
    delayed[#delayed + 1] = number
  end
  first = min(first, moment)
end
many('HSET', PREFIX .. 'm', records)
many('ZADD', PREFIX .. 'r', ready)
many('ZADD', PREFIX .. 'l', life)
if due then
  many('HSET', PREFIX .. 's', states)
  many('ZADD', PREFIX .. 'd', due)
  many('ZADD', PREFIX .. 'o', delayed)
end
call('HSET', FENCE, 'n', format('%.0f', last))
-- include: note
-- include: wake
if noted then
  call('HSET', PREFIX .. 'p', noted, ARGV[#ARGV])
  call('ZADD', PREFIX .. 'i', noted, noted)
  call('ZADD', KEYS[19] or 'zaqar:posted', 'LT', now, string.match(FENCE, '{(.-)}'))
end
return last
