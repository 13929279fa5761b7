-- The numbers of the first `limit` READY messages that are not exhausted, and of the exhausted ones before and between them. It
-- ends early at `most_exhausted`. Exhausted is a message that was claimed `max_claims` times.
local function select_ready(limit, max_claims, most_exhausted)
  local usable, exhausted = {}, {}
  local from, size = 0, min(limit, CHUNK)
  while true do
    local numbers = call('ZRANGE', PREFIX .. 'ready', from, from + size - 1)
    if #numbers == 0 then
      return usable, exhausted
    end
    local states = call('HMGET', PREFIX .. 'states', unpack(numbers))
    for place = 1, #numbers do
      if #usable == limit or #exhausted == most_exhausted then
        return usable, exhausted
      end
      local state = states[place]
      local list = usable
      if state then
        local _, _, count = unpack_struct(STATE, state)
        list = count >= max_claims and exhausted or usable
      end
      list[#list + 1] = numbers[place]
    end
    if #numbers < size then
      return usable, exhausted
    end
    from = from + size
    size = CHUNK
  end
end
