-- Two keys of the store: the uids of all queues, and the agenda, which has each queue by the time when something of it may be
-- dead. In a Cluster each slot has its own, KEYS[15] and KEYS[16].
local QUEUES, AGENDA = KEYS[15] or 'zaqar:queues', KEYS[16] or 'zaqar:agenda'
local UID = string.match(FENCE, '{(.-)}')
