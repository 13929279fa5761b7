# SPDX-License-Identifier: Apache-2.0
"""Messages and claims as bytes. The Lua scripts read and write the same forms (``scripts/states.lua``).

Times are stored as they are, eight bytes each: a text of Lua's would lose digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from zaqar.model import Claim, Draft, Message, Origin

_RECORD = struct.Struct("<ddIII")
"""created, expires as posted, and the lengths of client id, checksum and origin; then these, then the body."""

_STATE = struct.Struct("<ddI")
"""expires, end of the claim or, without a claim id, of the delay, claims so far; then the claim id."""

_CLAIM = struct.Struct("<dII")
"""started, ttl, grace; then the numbers of the messages it took."""

_COUNT = struct.Struct("<I")
_ORIGIN_NAME = 4 + 36
"""An origin is the claims so far, the message id, then the name of the queue."""


def record_of(draft: Draft, client_id: bytes, now: float) -> bytes:
    checksum = b"" if draft.checksum is None else draft.checksum.encode()
    head = _RECORD.pack(now, now + draft.ttl, len(client_id), len(checksum), 0)
    return b"".join((head, client_id, checksum, draft.body))


def record_of_letter(letter: Message, origin: Origin) -> bytes:
    client_id = letter.client_id.encode()
    checksum = b"" if letter.checksum is None else letter.checksum.encode()
    whence = _COUNT.pack(origin.claim_count) + origin.message_id.encode() + origin.queue.encode()
    head = _RECORD.pack(letter.created, letter.expires, len(client_id), len(checksum), len(whence))
    return b"".join((head, client_id, checksum, whence, letter.body))


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
    return Message(
        uid,
        int(number),
        record[body_at:],
        created,
        expires,
        record[_RECORD.size : checksum_at].decode(),
        claim_id,
        count,
        record[checksum_at:origin_at].decode() if checksum else None,
        _origin_of(record[origin_at:body_at]) if origin else None,
        due=due,
    )


def messages_of(uid: str, reply: Sequence[Any], now: float, start: int = 1) -> Iterator[Message]:
    """Those rows of a reply (number, record, state) that are there at ``now``."""
    rows = iter(reply[start:])
    for number, record, state in zip(rows, rows, rows, strict=True):
        if record is not None:
            message = message_of(uid, number, record, state, now)
            if now < message.expires:
                yield message


def set_aside_of(uid: str, reply: Sequence[Any], now: float) -> Iterator[Message]:
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
        )


def _origin_of(packed: bytes) -> Origin:
    (count,) = _COUNT.unpack_from(packed)
    return Origin(packed[_ORIGIN_NAME:].decode(), packed[_COUNT.size : _ORIGIN_NAME].decode(), count)


COUNT_SIZE = _COUNT.size
"""By which a record that is set aside begins later than others."""


def body_at(record: bytes, start: int = 0) -> int:
    """Where the body begins in a record, counted from its start."""
    _, _, client, checksum, origin = _RECORD.unpack_from(record, start)
    return int(_RECORD.size + client + checksum + origin)


def pack_claim(claim: Claim) -> bytes:
    return _CLAIM.pack(claim.started, claim.ttl, claim.grace)


def claim_of(claim_id: str, packed: bytes) -> Claim:
    started, ttl, grace = _CLAIM.unpack_from(packed)
    return Claim(claim_id, ttl, grace, started)
