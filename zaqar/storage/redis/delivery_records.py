# SPDX-License-Identifier: Apache-2.0
"""Deliveries, and positions of posts, as bytes.

A delivery is stored as a record, which never changes, and a state. The scripts read and write the same states
(``scripts/pieces/subscription_backlog.lua``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from zaqar.model import DEAD, DONE, NOT_EXPANDED, WAITING, Attempt, Delivery, PostPosition

STATE_CODES = {WAITING: b"w", DONE: b"o", DEAD: b"d"}
_STATES = {code: state for state, code in STATE_CODES.items()}

_STATE = struct.Struct(">cddIH")
"""Code of the state, due, kept until (0 for None), tries, length of the owner. The owner and the attempts follow."""


class _Record(msgspec.Struct, array_like=True):
    body: bytes
    ttl: int
    created: float
    client_id: str
    kind: str
    trace: str | None = None
    request_id: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(_Record).decode
_decode_fields = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
_decode_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...]).decode
_decode_position = msgspec.msgpack.Decoder(PostPosition).decode


def encode_number(number: int) -> bytes:
    """Twelve hexadecimal digits, which are in the order of the numbers."""
    return b"%012x" % number


def encode_position(position: PostPosition) -> bytes:
    """A position of a post as it is stored. Equal positions are equal bytes; NOT_EXPANDED is b""."""
    return b"" if position == NOT_EXPANDED else _encode(position)


def decode_position(stored: bytes | None) -> PostPosition:
    return _decode_position(stored) if stored else NOT_EXPANDED


def delivery_id(subscription_id: str, number: int) -> bytes:
    return b"%b:%b" % (subscription_id.encode(), encode_number(number))


def record_of(delivery: Delivery) -> bytes:
    # A delivery without a trace and a request leaves the two fields out.
    fields = (delivery.body, delivery.ttl, delivery.created, delivery.client_id, delivery.kind)
    if delivery.trace is None and not delivery.request_id:
        return _encode(fields)
    return _encode((*fields, delivery.trace, delivery.request_id))


def body_of_delivery(record: bytes) -> bytes:
    return _decode_record(record).body


def with_delivery_body(record: bytes, body: bytes) -> bytes:
    """The record of a delivery with another body."""
    return _encode((body, *_decode_fields(record)[1:]))


def state_of(delivery: Delivery, *, owner: str | None) -> bytes:
    name = b"" if owner is None else owner.encode()
    keep = 0.0 if delivery.keep_until is None else delivery.keep_until
    head = _STATE.pack(STATE_CODES[delivery.state], delivery.due, keep, delivery.tries, len(name))
    return b"".join((head, name, _encode(delivery.attempts)))


def row_of(delivery: Delivery) -> tuple[bytes, bytes, bytes]:
    """Id, record and state, as the scripts take and return a delivery."""
    id_ = delivery_id(delivery.subscription_id, delivery.number)
    return id_, record_of(delivery), state_of(delivery, owner=delivery.owner)


def deliveries_of(uid: str, reply: Sequence[Any]) -> Iterator[Delivery]:
    """The deliveries of a reply: rows of id, record and state."""
    rows = iter(reply)
    for name, record, state in zip(rows, rows, rows, strict=True):
        subscription_id, _, number = name.rpartition(b":")
        fields = _decode_record(record)
        code, due, keep, tries, length = _STATE.unpack_from(state)
        attempts_at = _STATE.size + length
        yield Delivery(
            uid,
            subscription_id.decode(),
            int(number, 16),
            fields.body,
            fields.ttl,
            fields.created,
            fields.client_id,
            due,
            fields.kind,
            state[_STATE.size : attempts_at].decode() or None,
            _STATES[code],
            tries,
            _decode_attempts(state[attempts_at:]),
            keep or None,
            fields.trace,
            fields.request_id,
        )
