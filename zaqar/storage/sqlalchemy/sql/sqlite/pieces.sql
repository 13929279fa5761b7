-- Pieces that differ between the databases, as SQLite has them.

-- piece: READY_COUNTER
ready

-- piece: CLAIMED_COUNTER
claimed

-- piece: DELAYED_COUNTER
delayed

-- piece: BYTES
BLOB
