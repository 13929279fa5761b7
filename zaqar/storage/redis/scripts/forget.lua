-- include: keys fence
-- ARGV: generation, now, numbers
local numbers = {}
for at = 3, #ARGV do
  numbers[at - 2] = ARGV[at]
end
many('ZREM', ASIDE, numbers)
many('HDEL', LETTERS, numbers)
return 0
