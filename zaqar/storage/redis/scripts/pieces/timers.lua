-- Nothing is due before `due_from`, so most operations need not look.
local due_from, on_agenda = tonumber(fence[3]) or huge, tonumber(fence[4]) or huge
