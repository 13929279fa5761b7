-- The first `limit` READY messages that are not worn out, and at most `most_dead` before and between them that are.
local function first_free(limit, worn_out, most_dead)
  local living, dead = {}, {}
  local from, size = 0, min(limit, CHUNK)
  while true do
    local numbers = call('ZRANGE', PREFIX .. 'r', from, from + size - 1)
    if #numbers == 0 then
      return living, dead
    end
    local states = call('HMGET', PREFIX .. 's', unpack(numbers))
    for place = 1, #numbers do
      if #living == limit or #dead == most_dead then
        return living, dead
      end
      local state = states[place]
      local list = living
      if state then
        local _, _, count = unpack_struct(STATE, state)
        list = count >= worn_out and dead or living
      end
      list[#list + 1] = numbers[place]
    end
    if #numbers < size then
      return living, dead
    end
    from = from + size
    size = CHUNK
  end
end
