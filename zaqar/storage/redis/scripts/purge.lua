-- include: keys fence
-- ARGV: generation, now. The memory is given back by a thread of the server. RECEIVED stays: those ids must not come again.
call('UNLINK', RECORDS, STATES, READY, LIFE, CLAIMED, DUE, DELAYED, CLAIMS, ENDS, ASIDE, LETTERS)
return 0
