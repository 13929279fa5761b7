-- Nothing is due before `due_from`, so most operations need not look.
local due_from, on_agenda = tonumber(fence[3]) or huge, tonumber(fence[4]) or huge

-- Note that something falls due at `moment`. Bounds are only ever lowered here; `settle` and the sweep raise them.
local function note(moment)
  if moment < due_from then
    due_from = moment
    call('HSET', FENCE, 'a', moment)
  end
  if moment < on_agenda then
    on_agenda = moment
    call('HSET', FENCE, 'b', moment)
    call('ZADD', AGENDA, moment, uid_of(FENCE))
  end
end
