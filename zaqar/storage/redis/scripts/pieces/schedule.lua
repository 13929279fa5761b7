-- Something is due at `first`. The bounds only become lower here; promote_due and the sweep raise them. So a bound may be too low,
-- which costs a look, and is never too high, which would hide what is due.
if first < due_from then
  due_from = first
  call('HSET', FENCE, 'due_from', first)
end
if first < agenda_from then
  agenda_from = first
  call('HSET', FENCE, 'agenda_from', first)
  call('ZADD', KEYS[16] or 'zaqar:agenda', first, string.match(FENCE, '{(.-)}'))
end
