-- Something falls due at `first`. The bounds are only ever lowered here; `settle` and the sweep raise them.
if first < due_from then
  due_from = first
  call('HSET', FENCE, 'a', first)
end
if first < on_agenda then
  on_agenda = first
  call('HSET', FENCE, 'b', first)
  call('ZADD', KEYS[16] or 'zaqar:agenda', first, string.match(FENCE, '{(.-)}'))
end
