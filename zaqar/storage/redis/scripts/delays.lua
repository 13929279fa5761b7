-- Put the end of its delay into the state of each delayed message, if an earlier version stored the message, without that. The
-- first state is at `from`.
local function add_delays(rows, from)
  for at = from, #rows, 3 do
    local state = rows[at]
    if state and #state == 20 then
      local expires, ends, count = unpack_struct(STATE, state)
      local due = ends == 0 and count == 0 and call('ZSCORE', PREFIX .. 'd', rows[at - 2])
      if due then
        rows[at] = pack_struct(STATE, expires, tonumber(due), count)
      end
    end
  end
  return rows
end
