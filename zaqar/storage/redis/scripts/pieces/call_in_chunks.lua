-- Call a command with a long list of arguments, CHUNK at a time. CHUNK is even, so pairs stay together.
local function call_in_chunks(command, key, list)
  for from = 1, #list, CHUNK do
    call(command, key, unpack(list, from, min(from + CHUNK - 1, #list)))
  end
end
