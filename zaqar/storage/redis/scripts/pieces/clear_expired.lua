-- Remove records that `settle` left behind. How many that were.
local function clear_expired(most)
  local gone = call('ZRANGE', PREFIX .. 'z', 0, min(most, CHUNK) - 1)
  if #gone > 0 then
    call('ZREMRANGEBYRANK', PREFIX .. 'z', 0, #gone - 1)
    call('HDEL', PREFIX .. 'm', unpack(gone))
    call('HDEL', PREFIX .. 's', unpack(gone))
  end
  return #gone
end
