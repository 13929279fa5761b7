-- Refuse the operation if the caller's copy of the queue is out of date. Nothing was changed before. The fields of a fence:
--   generation    compared with that of the caller
--   last          the last number that was given to a message
--   due_from      nothing that changes what a reader sees is due before this time; a lower bound
--   agenda_from   nothing that a sweep has to do is due before this time; a lower bound, and the score of the queue in the agenda
--   expired       how many expired messages were removed since the last sweep of the queue
--   waited_until  until this time a client may be waiting for the queue, see queues/position
local fence = call('HMGET', FENCE, 'generation', 'last', 'due_from', 'agenda_from', 'waited_until')
if fence[1] ~= ARGV[1] then
  return STALE
end
