-- include: keys fence timers states ripen
-- ARGV: generation, now, then for each draft its record, its end of life, and the end of its delay or ''.
-- Answers the last number. All numbers of a queue are given out here and in `append`, inside a script: in order, without gaps.
local TIDY_EVERY = 64 -- a post that passes a multiple of this removes twice as many of the dead, so that nobody has to read

local last = tonumber(fence[2])
local drafts = (#ARGV - 2) / 3
if now >= due_from then
  local rounds = math.floor((last + drafts) / TIDY_EVERY) - math.floor(last / TIDY_EVERY)
  if rounds > 0 then
    settle(2 * TIDY_EVERY * rounds)
  end
end

local records, ready, life, due, delayed, states = {}, {}, {}, {}, {}, {}
local first = huge
for at = 3, #ARGV, 3 do
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
    states[#states + 1] = number
    states[#states + 1] = state_of(moment, 0, 0, '')
    moment = min(moment, tonumber(delay_ends))
    due[#due + 1] = moment
    due[#due + 1] = number
    delayed[#delayed + 1] = number
    delayed[#delayed + 1] = number
  end
  first = min(first, moment)
end
many('HSET', RECORDS, records)
many('ZADD', READY, ready)
many('ZADD', LIFE, life)
if #due > 0 then
  many('HSET', STATES, states)
  many('ZADD', DUE, due)
  many('ZADD', DELAYED, delayed)
end
call('HSET', FENCE, 'n', format('%.0f', last))
if first < huge then
  note(first)
end
return last
