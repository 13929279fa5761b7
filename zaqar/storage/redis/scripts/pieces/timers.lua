-- Most operations are before `due_from`, so they need not look for what is due.
local due_from, agenda_from = tonumber(fence[3]) or huge, tonumber(fence[4]) or huge
