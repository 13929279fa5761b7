-- include: outbox_keys
-- include: lanes
-- ARGV: lanes of subscriptions that are gone. None of them has a turn from now on; a sweep looks at them as soon as it comes.
if call('HEXISTS', FENCE, 't') == 1 then
  -- The whole queue was dropped. There is nothing left, unless another version dropped it, which left its outbox.
  -- include: clear_outbox
  return 0
end
for _, lane in ipairs(ARGV) do
  call('ZREM', PREFIX .. 'n', lane)
  call('ZREM', PREFIX .. 'h', lane)
  call('ZADD', PREFIX .. 'a', 0, lane)
end
place_queue()
place_kept()
return #ARGV
