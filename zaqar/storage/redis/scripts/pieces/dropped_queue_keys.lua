-- The lists of outbox_keys, for a script that removes a queue. In a Cluster the keys of the outbox are KEYS[17] to KEYS[33].
local POSTED, DUE = KEYS[29] or 'zaqar:posted', KEYS[30] or 'zaqar:due'
local TURNS, KEPT = KEYS[31] or 'zaqar:turns', KEYS[32] or 'zaqar:kept'
