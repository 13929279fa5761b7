-- Append messages without a delay to the queue of `prefix`. `records` and `expiries`, as text or number, have the same length.
local function append_messages(prefix, last, records, expiries)
  local rows, ready, expiry = {}, {}, {}
  for place = 1, #records do
    local number = format('%.0f', last + place)
    local at = 2 * place
    rows[at - 1], rows[at] = number, records[place]
    ready[at - 1], ready[at] = number, number
    expiry[at - 1], expiry[at] = expiries[place], number
  end
  call_in_chunks('HSET', prefix .. 'messages', rows)
  call_in_chunks('ZADD', prefix .. 'ready', ready)
  call_in_chunks('ZADD', prefix .. 'expiry', expiry)
  call('HSET', prefix .. 'fence', 'last', format('%.0f', last + #records))
end
