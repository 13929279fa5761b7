-- include: node_keys
-- ARGV: id, subscription. Answers 1, or 0 if the node is absent or condemned.
if call('HEXISTS', ROWS, ARGV[1]) == 0 then
  return 0
end
call('ZADD', SUBSCRIPTIONS, 0, ARGV[2])
return 1
