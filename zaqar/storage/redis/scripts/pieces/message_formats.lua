-- A record is written once: created, expires (as posted), three lengths, client id, checksum, origin, body.
-- A state is what changes: expires, end of the claim or, without a claim id, of the delay, claims so far, claim id ('' for none).
-- Never claimed, never delayed: none.
-- A claim is: started, ttl, grace, then the numbers it took.
local RECORD, STATE, CLAIM = '<ddI4I4I4', '<ddI4', '<dI4I4'
local pack_struct, unpack_struct = struct.pack, struct.unpack
