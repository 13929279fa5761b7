-- Read messages by their numbers.
-- KEYS: see queue_keys. ARGV: generation, now, the numbers.
-- Reply: nil, then number, record and state of each, as they are stored, also absent and dead ones: the reader compares their times.
-- It only reads.
-- include: queue_keys
-- include: check_fence
-- include: add_rows
local numbers = {}
for at = 3, #ARGV do
  numbers[at - 2] = ARGV[at]
end
return add_rows({ false }, numbers)
