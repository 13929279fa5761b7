-- The catalog of pools and flavors is one row. It exists once there is a pool or a flavor.

-- name: get
SELECT version, content FROM catalog WHERE id = 1

-- name: insert
-- The first version. Of two callers at the same moment one inserts; the other one inserts nothing.
INSERT INTO catalog (id, version, content) VALUES (1, :version, :content) ON CONFLICT (id) DO NOTHING

-- name: replace
-- Only if no other caller changed the catalog since the caller read it.
UPDATE catalog SET version = :version, content = :content WHERE id = 1 AND version = :version - 1
