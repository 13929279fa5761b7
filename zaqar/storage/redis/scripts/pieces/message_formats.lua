-- Formats for struct.pack; zaqar/storage/redis/message_records.py has the same ones.
-- A record is written once: created, expires as posted, lengths of client id, checksum and origin, then these three, then the body.
-- The part of the checksum has the trace as well, if there is one: checksum, a zero byte, trace.
-- A state changes: expires, end of the claim (or of the delay, if there is no claim id), claim count, claim id ('' for none).
-- A message that was never claimed and never delayed has no state.
-- A claim is: started, ttl, grace, then the numbers of the messages that it took, with commas.
local RECORD, STATE, CLAIM = '<ddI4I4I4', '<ddI4', '<dI4I4'
local HEAD_OF_RECORD, HEAD_OF_STATE, HEAD_OF_CLAIM = 28, 20, 16 -- bytes before the parts without a fixed length
local pack_struct, unpack_struct = struct.pack, struct.unpack
