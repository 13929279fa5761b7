-- Remove READY messages.
local function remove_ready(numbers)
  call_in_chunks('ZREM', PREFIX .. 'ready', numbers)
  call_in_chunks('ZREM', PREFIX .. 'expiry', numbers)
  call_in_chunks('HDEL', PREFIX .. 'messages', numbers)
  call_in_chunks('HDEL', PREFIX .. 'states', numbers)
end
