-- Count the messages of many queues.
-- KEYS: the queues of a slot, or of the server. ARGV: now, the uid after which to begin, how many queues.
-- Reply: the uid after which to go on or nil, free, claimed, and the uids of queues in which something is due: these are not counted.
-- It only reads. The keys of the queues are not among KEYS, because the caller does not know which they are; they are in the same slot.
local call, now = redis.call, tonumber(ARGV[1])
local uids = call('ZRANGEBYLEX', KEYS[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local free, claimed, reply = 0, 0, { false, 0, 0 }
for _, uid in ipairs(uids) do
  local prefix = 'zaqar:{' .. uid .. '}:'
  local due_from = tonumber(call('HGET', prefix .. 'fence', 'due_from'))
  if due_from and due_from <= now then
    reply[#reply + 1] = uid
  else
    free = free + call('ZCARD', prefix .. 'ready')
    claimed = claimed + call('ZCARD', prefix .. 'claimed')
  end
end
if #uids == tonumber(ARGV[3]) then
  reply[1] = uids[#uids]
end
reply[2], reply[3] = free, claimed
return reply
