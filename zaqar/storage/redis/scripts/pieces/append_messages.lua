-- Put messages that nobody delays at the end of a queue. `records` and `lives` (their ends, as text or number) go together.
local function append(prefix, last, records, lives)
  local rows, ready, life = {}, {}, {}
  for place = 1, #records do
    local number = format('%.0f', last + place)
    local at = 2 * place
    rows[at - 1], rows[at] = number, records[place]
    ready[at - 1], ready[at] = number, number
    life[at - 1], life[at] = lives[place], number
  end
  many('HSET', prefix .. 'm', rows)
  many('ZADD', prefix .. 'r', ready)
  many('ZADD', prefix .. 'l', life)
  call('HSET', prefix .. 'f', 'n', format('%.0f', last + #records))
end
