-- Remove records that promote_due left behind, at most `most` and CHUNK. Returns how many these were.
local function clear_expired(most)
  local gone = call('ZRANGE', PREFIX .. 'expired', 0, min(most, CHUNK) - 1)
  if #gone > 0 then
    call('ZREMRANGEBYRANK', PREFIX .. 'expired', 0, #gone - 1)
    call('HDEL', PREFIX .. 'messages', unpack(gone))
    call('HDEL', PREFIX .. 'states', unpack(gone))
    note_expired(#gone)
  end
  return #gone
end
