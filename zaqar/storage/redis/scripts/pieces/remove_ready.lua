-- Take READY messages out.
local function remove(numbers)
  many('ZREM', PREFIX .. 'r', numbers)
  many('ZREM', PREFIX .. 'l', numbers)
  many('HDEL', PREFIX .. 'm', numbers)
  many('HDEL', PREFIX .. 's', numbers)
end
