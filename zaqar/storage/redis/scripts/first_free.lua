-- The first `limit` READY messages that are not worn out, and at most `most_dead` before and between them that are.
local function first_free(limit, worn_out, most_dead)
  local living, dead = {}, {}
  local from, size = 0, min(limit, CHUNK)
  while true do
    local numbers = call('ZRANGE', READY, from, from + size - 1)
    if #numbers == 0 then
      return living, dead
    end
    local states = call('HMGET', STATES, unpack(numbers))
    for place = 1, #numbers do
      local state = states[place]
      local count = 0
      if state then
        count = select(2, life_of(nil, state))
      end
      if #living == limit or #dead == most_dead then
        return living, dead
      end
      local list = count >= worn_out and dead or living
      list[#list + 1] = numbers[place]
    end
    if #numbers < size then
      return living, dead
    end
    from = from + size
    size = CHUNK
  end
end
