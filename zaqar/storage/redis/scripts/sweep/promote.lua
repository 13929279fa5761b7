-- include: keys
-- include: any_fence
-- include: timers
-- include: states
-- include: ripen
-- ARGV: whatever, now. Answers whether nothing is due any more.
if not fence[1] or settle(BATCH) then
  return 1
end
return AGAIN
