-- Select the messages of a claim after the exhausted ones before and between them were moved, and set `moved` to their number.
-- ARGV[9] is missing (pass over them), 'tell' (reply HAS_EXHAUSTED if there are some), or the generation of the dead letter queue;
-- then ARGV[10] is the name of this queue, and ARGV[11] when they expire there ('' if they keep their own time).
-- Messages that are set aside come before those that are not, so they are handed over first.
-- include: select_ready
local exhausted
usable, exhausted = select_ready(limit, tonumber(ARGV[8]), ARGV[9] and BATCH or huge)
if ARGV[9] and call('EXISTS', PREFIX .. 'set_aside') == 1 then
  return HAS_EXHAUSTED
elseif ARGV[9] == 'tell' then
  if #exhausted > 0 then
    return HAS_EXHAUSTED
  end
elseif ARGV[9] and #exhausted > 0 then
  -- include: remove_ready
  -- include: append_messages
  -- Both queues change in this one script, so a message is always in exactly one of them.
  local target_fence = #KEYS == 2 and KEYS[2] or FENCE
  local target = call('HMGET', target_fence, 'generation', 'last', 'due_from', 'agenda_from', 'waited_until')
  if target[1] ~= ARGV[9] then
    return STALE_DEAD_LETTER_QUEUE
  end
  local rows, records, expiries, soonest = add_rows({}, exhausted), {}, {}, huge
  for at = 1, 3 * #exhausted, 3 do
    local record, state = rows[at + 1], rows[at + 2]
    local created, _, client, checksum, origin = unpack_struct(RECORD, record)
    local expires, _, count = unpack_struct(STATE, state)
    if ARGV[11] ~= '' then
      created, expires = now, tonumber(ARGV[11])
    end
    local from = pack_struct('<I4', count) .. string.match(FENCE, '{(.-)}') .. format('%012x', rows[at]) .. ARGV[10]
    local origin_at = HEAD_OF_RECORD + client + checksum
    records[#records + 1] = pack_struct(RECORD, created, expires, client, checksum, #from)
      .. sub(record, HEAD_OF_RECORD + 1, origin_at) .. from .. sub(record, origin_at + origin + 1)
    expiries[#expiries + 1] = expires
    soonest = min(soonest, expires)
  end
  remove_ready(exhausted)
  moved = #exhausted
  append_messages(sub(target_fence, 1, -6), tonumber(target[2]), records, expiries)
  -- Schedule the expiry in the dead letter queue, which may be this one, and wake the clients that wait for it.
  do
    local first, FENCE, fence = soonest, target_fence, target
    local due_from, agenda_from = tonumber(target[3]) or huge, tonumber(target[4]) or huge
    -- include: schedule
    -- include: wake_clients
  end
  if target_fence == FENCE then
    due_from, agenda_from = min(due_from, soonest), min(agenda_from, soonest)
  end
  if #exhausted == BATCH and #usable < limit then
    return { MORE_IS_DUE, moved }
  end
end
