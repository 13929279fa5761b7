-- include: outbox_keys
-- ARGV: id. Answers id, record and state, or nothing.
local record = call('HGET', PREFIX .. 'b', ARGV[1])
return record and { ARGV[1], record, call('HGET', PREFIX .. 'g', ARGV[1]) } or {}
