-- The first free messages that live, after the worn out before and between them went where they belong.
-- include: first_free
local dead
living, dead = first_free(limit, tonumber(ARGV[8]), ARGV[9] and BATCH or huge)
if ARGV[9] and call('EXISTS', PREFIX .. 'x') == 1 then
  return WORN_OUT
elseif ARGV[9] == 'tell' then
  if #dead > 0 then
    return WORN_OUT
  end
elseif ARGV[9] and #dead > 0 then
  -- include: remove
  -- include: append
  local grave_key = #KEYS == 2 and KEYS[2] or FENCE
  local grave = call('HMGET', grave_key, 'g', 'n', 'a', 'b', 'w')
  if grave[1] ~= ARGV[9] then
    return STALE_GRAVE
  end
  local rows, records, lives, soonest = add_rows({}, dead), {}, {}, huge
  for at = 1, 3 * #dead, 3 do
    local record, state = rows[at + 1], rows[at + 2]
    local created, _, client, checksum, origin = unpack_struct(RECORD, record)
    local expires, _, count = unpack_struct(STATE, state)
    if ARGV[11] ~= '' then
      created, expires = now, tonumber(ARGV[11])
    end
    local from = pack_struct('<I4', count) .. string.match(FENCE, '{(.-)}') .. format('%012x', rows[at]) .. ARGV[10]
    local named = 28 + client + checksum
    records[#records + 1] = pack_struct(RECORD, created, expires, client, checksum, #from)
      .. sub(record, 29, named) .. from .. sub(record, named + origin + 1)
    lives[#lives + 1] = expires
    soonest = min(soonest, expires)
  end
  remove(dead)
  append(sub(grave_key, 1, -2), tonumber(grave[2]), records, lives)
  -- Note the timer in the dead letter queue, which may be this one, and wake the clients that wait for it.
  do
    local first, FENCE, fence = soonest, grave_key, grave
    local due_from, on_agenda = tonumber(grave[3]) or huge, tonumber(grave[4]) or huge
    -- include: note
    -- include: wake
  end
  if grave_key == FENCE then
    due_from, on_agenda = min(due_from, soonest), min(on_agenda, soonest)
  end
  if #dead == BATCH and #living < limit then
    return AGAIN
  end
end
