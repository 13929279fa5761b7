-- include: keys
-- include: fence
-- include: many
-- ARGV: generation, now, numbers
local numbers = {}
for at = 3, #ARGV do
  numbers[at - 2] = ARGV[at]
end
many('ZREM', PREFIX .. 'x', numbers)
many('HDEL', PREFIX .. 'y', numbers)
return 0
