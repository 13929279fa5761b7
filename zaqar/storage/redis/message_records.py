# SPDX-License-Identifier: Apache-2.0
"""Messages and claims as bytes. The scripts read and write the same formats (``scripts/pieces/message_formats.lua``).

Times are stored as binary doubles, eight bytes each, because the decimal numbers of Lua would lose digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from zaqar.model import Claim, Draft, Message, Origin

_RECORD = struct.Struct("<ddIII")
"""created, expires as posted, lengths of client id, checksum and origin. These three and the body follow.

If a message has a trace, the part of the checksum is: checksum, TRACE_MARK, trace. So a message without one takes no
byte for it, and the scripts, which only pass over the part or copy it, need not know of traces."""

TRACE_MARK: Final = b"\0"
"""What no checksum has: it is the name of an algorithm and hexadecimal digits."""

_STATE = struct.Struct("<ddI")
"""expires, end of the claim (or of the delay, if there is no claim id), claim count. The claim id follows."""

_CLAIM = struct.Struct("<dII")
"""started, ttl, grace. The numbers of the messages that it took follow."""

_COUNT = struct.Struct("<I")
_ORIGIN_NAME = 4 + 36
"""Where the name of the queue begins in an origin: claim count, message id, name."""


def record_of(draft: Draft, client_id: bytes, now: float) -> bytes:
    checksum = b"" if draft.checksum is None else draft.checksum.encode()
    if draft.trace is not None:
        checksum += TRACE_MARK + draft.trace.encode()
    head = _RECORD.pack(now, now + draft.ttl, len(client_id), len(checksum), 0)
    return b"".join((head, client_id, checksum, draft.body))


def record_of_dead_letter(letter: Message, origin: Origin) -> bytes:
    client_id = letter.client_id.encode()
    checksum = b"" if letter.checksum is None else letter.checksum.encode()
    if letter.trace is not None:
        checksum += TRACE_MARK + letter.trace.encode()
    origin_bytes = _COUNT.pack(origin.claim_count) + origin.message_id.encode() + origin.queue.encode()
    head = _RECORD.pack(letter.created, letter.expires, len(client_id), len(checksum), len(origin_bytes))
    return b"".join((head, client_id, checksum, origin_bytes, letter.body))


def message_of(uid: str, number: bytes, record: bytes, state: bytes | None, now: float) -> Message:
    """A message as it is at ``now``."""
    created, expires, client, checksum, origin = _RECORD.unpack_from(record)
    claim_id, count, due = None, 0, None
    if state is not None:
        expires, ends, count = _STATE.unpack_from(state)
        if now < ends:
            if len(state) > _STATE.size:
                claim_id = state[_STATE.size :].decode()
            else:
                due = ends
    checksum_at = _RECORD.size + client
    origin_at = checksum_at + checksum
    body_at = origin_at + origin
    checksum_text = trace = None
    if checksum:
        checksum_text, trace = _split_checksum(record[checksum_at:origin_at])
    return Message(
        uid,
        int(number),
        record[body_at:],
        created,
        expires,
        record[_RECORD.size : checksum_at].decode(),
        claim_id,
        count,
        checksum_text,
        _origin_of(record[origin_at:body_at]) if origin else None,
        None,
        due,
        trace,
    )


def messages_of(uid: str, reply: Sequence[Any], now: float, start: int = 1) -> Iterator[Message]:
    """The messages of a reply, rows of number, record and state, that exist and live at ``now``."""
    rows = iter(reply[start:])
    for number, record, state in zip(rows, rows, rows, strict=True):
        if record is not None:
            message = message_of(uid, number, record, state, now)
            if now < message.expires:
                yield message


def dead_letters_of(uid: str, reply: Sequence[Any], now: float) -> Iterator[Message]:
    """The messages of a reply of ``dead_letters/set_aside``: number and letter, which is a claim count and a record."""
    rows = iter(reply[1:])
    for number, letter in zip(rows, rows, strict=True):
        (count,) = _COUNT.unpack_from(letter)
        message = message_of(uid, number, letter[_COUNT.size :], None, now)
        yield Message(
            uid,
            message.sequence,
            message.body,
            message.created,
            message.expires,
            message.client_id,
            None,
            count,
            message.checksum,
            message.origin,
            trace=message.trace,
        )


def _split_checksum(packed: bytes) -> tuple[str | None, str | None]:
    """Checksum and trace."""
    checksum, mark, trace = packed.partition(TRACE_MARK)
    return checksum.decode() or None, trace.decode() if mark else None


def _origin_of(packed: bytes) -> Origin:
    (count,) = _COUNT.unpack_from(packed)
    return Origin(packed[_ORIGIN_NAME:].decode(), packed[_COUNT.size : _ORIGIN_NAME].decode(), count)


COUNT_SIZE = _COUNT.size
"""Length of the claim count in front of the record of a message that is set aside."""


def body_at(record: bytes, start: int = 0) -> int:
    """The offset of the body in a record that begins at ``start``, counted from there."""
    _, _, client, checksum, origin = _RECORD.unpack_from(record, start)
    return int(_RECORD.size + client + checksum + origin)


def pack_claim(claim: Claim) -> bytes:
    return _CLAIM.pack(claim.started, claim.ttl, claim.grace)


def claim_of(claim_id: str, packed: bytes) -> Claim:
    started, ttl, grace = _CLAIM.unpack_from(packed)
    return Claim(claim_id, ttl, grace, started)
