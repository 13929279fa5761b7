-- Messages became available. Tell the processes of the service, if a client of one of them waits for the queue; see queues/position.
-- An error, for example that this user may not publish, must not end the script after its writes: the processes also poll.
if fence[5] and now < tonumber(fence[5]) then
  redis.pcall('PUBLISH', 'zaqar:wakeups', string.match(FENCE, '{(.-)}'))
end
