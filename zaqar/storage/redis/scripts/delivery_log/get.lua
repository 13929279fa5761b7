-- Read one delivery.
-- KEYS: see outbox_keys. ARGV: id. Reply: id, record and state, or an empty list. It only reads.
-- include: outbox_keys
local record = call('HGET', PREFIX .. 'delivery_records', ARGV[1])
return record and { ARGV[1], record, call('HGET', PREFIX .. 'delivery_states', ARGV[1]) } or {}
