-- include: keys any_fence timers states ripen
-- ARGV: whatever, now. Answers whether nothing is due any more.
if not fence[1] or settle(BATCH) then
  return 1
end
return AGAIN
