-- include: outbox_keys
-- include: lanes
-- ARGV: now, owner, end of the lease, limit, most of one lane, then the lanes to go without.
-- Answers id, record and state of each that is taken. Lanes take turns: whichever had one goes behind those that wait for theirs.
local now, owner, until_, limit, most = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local without, reply, taken = {}, {}, 0
for at = 6, #ARGV do
  without[ARGV[at]] = true
end

local risen = call('ZRANGEBYSCORE', PREFIX .. 'n', '-inf', ARGV[1], 'LIMIT', 0, CHUNK)
if #risen > 0 then
  call('ZREM', PREFIX .. 'n', unpack(risen))
  local turn = next_turn(PREFIX .. 'h')
  for place, lane in ipairs(risen) do
    call('ZADD', PREFIX .. 'h', turn + place, lane)
  end
end

local function lease(lane, most_now)
  local from, to = '[' .. lane .. ':', '[' .. waits_as(lane, now, 'g') -- behind every hexadecimal digit
  local found = call('ZRANGEBYLEX', PREFIX .. 'w', from, to, 'LIMIT', 0, most_now)
  for _, waiting in ipairs(found) do
    local number = sub(waiting, -12)
    local id = lane .. ':' .. number
    local _, _, keep, tries, _, attempts = read(call('HGET', PREFIX .. 'g', id))
    local state = write('w', until_, keep, tries, owner, attempts)
    call('ZREM', PREFIX .. 'w', waiting)
    call('ZADD', PREFIX .. 'w', 0, waits_as(lane, until_, number))
    call('HSET', PREFIX .. 'g', id, state)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = id, call('HGET', PREFIX .. 'b', id), state
  end
  taken = taken + #found
end

-- Those it goes without keep their places, so at most as many of them are passed.
local passed, from, last = {}, 0, call('ZCARD', PREFIX .. 'h')
while from < last and taken < limit do
  local some = call('ZRANGE', PREFIX .. 'h', from, min(from + 99, last - 1))
  from = from + #some
  for _, lane in ipairs(some) do
    if taken >= limit then
      break
    end
    if not without[lane] then
      lease(lane, min(most, limit - taken))
      passed[#passed + 1] = lane
    end
  end
end
local turn = next_turn(PREFIX .. 'h')
for place, lane in ipairs(passed) do
  local due = due_of(lane)
  if due and due <= now then
    call('ZADD', PREFIX .. 'h', turn + place, lane)
  else
    call('ZREM', PREFIX .. 'h', lane)
    if due then
      call('ZADD', PREFIX .. 'n', due, lane)
    end
  end
end
call('ZREM', TURNS, UID) -- so that it comes behind the others
place_queue()
return reply
