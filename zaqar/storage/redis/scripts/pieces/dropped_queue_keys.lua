-- The names of outbox_keys.lua, for scripts about a queue that is dropped. In a Cluster the keys of the outbox are KEYS[17] to KEYS[33].
local POSTED, DUE, TURNS, KEPT = KEYS[29] or 'zaqar:posted', KEYS[30] or 'zaqar:due', KEYS[31] or 'zaqar:turns', KEYS[32] or 'zaqar:kept'
