-- Two keys of the store: the queues there are, and when each has something dead at the earliest. In a Cluster every slot has its own.
local QUEUES, AGENDA = KEYS[15] or 'zaqar:queues', KEYS[16] or 'zaqar:agenda'
local UID = string.match(FENCE, '{(.-)}')
