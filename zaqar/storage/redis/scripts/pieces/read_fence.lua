-- The fence of a script that works for any generation; the fields are those of check_fence.
local fence = call('HMGET', FENCE, 'generation', 'last', 'due_from', 'agenda_from')
