-- Append number, record and state of each message to a reply. Absent records and states are false.
local function add_rows(reply, numbers)
  local size = #reply
  for from = 1, #numbers, CHUNK do
    local to = min(from + CHUNK - 1, #numbers)
    local records = call('HMGET', PREFIX .. 'messages', unpack(numbers, from, to))
    local states = call('HMGET', PREFIX .. 'states', unpack(numbers, from, to))
    for place = 1, to - from + 1 do
      reply[size + 1], reply[size + 2], reply[size + 3] = numbers[from + place - 1], records[place], states[place]
      size = size + 3
    end
  end
  return reply
end
