-- A command with a long list of arguments; of pairs as well, for CHUNK is even.
local function many(command, key, list)
  for from = 1, #list, CHUNK do
    call(command, key, unpack(list, from, min(from + CHUNK - 1, #list)))
  end
end
