-- include: keys
-- include: fence
-- ARGV: generation, now. The ids of received letters stay, for those must not come again.
-- include: clear
return 0
