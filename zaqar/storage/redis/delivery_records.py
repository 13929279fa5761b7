# SPDX-License-Identifier: Apache-2.0
"""Deliveries, and positions of posts, as bytes.

A delivery is what never changes, and the state, which ``scripts/lanes.lua`` reads and writes as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from zaqar.model import DEAD, DONE, NOT_EXPANDED, WAITING, Attempt, Delivery, PostPosition

LETTERS = {WAITING: b"w", DONE: b"o", DEAD: b"d"}
_STATES = {letter: state for state, letter in LETTERS.items()}

_STATE = struct.Struct(">cddIH")
"""Letter of the state, due, kept until (0 for None), tries, length of the owner; then the owner, then the attempts."""

_Record = tuple[bytes, int, float, str, str]

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(_Record).decode
_decode_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...]).decode
_decode_position = msgspec.msgpack.Decoder(PostPosition).decode


def spell_number(number: int) -> bytes:
    """In the order of the numbers."""
    return b"%012x" % number


def store_of(position: PostPosition) -> bytes:
    """A position of a post as it is stored: equal ones are equal bytes, and nothing stands for NOT_EXPANDED."""
    return b"" if position == NOT_EXPANDED else _encode(position)


def position_of(place: bytes | None) -> PostPosition:
    return _decode_position(place) if place else NOT_EXPANDED


def id_of(subscription_id: str, number: int) -> bytes:
    return b"%b:%b" % (subscription_id.encode(), spell_number(number))


def record_of(delivery: Delivery) -> bytes:
    return _encode((delivery.body, delivery.ttl, delivery.created, delivery.client_id, delivery.kind))


def body_of_delivery(record: bytes) -> bytes:
    body, *_ = _decode_record(record)
    return bytes(body)


def with_delivery_body(record: bytes, body: bytes) -> bytes:
    """The record of a delivery with another body."""
    return _encode((body, *_decode_record(record)[1:]))


def state_of(delivery: Delivery, *, owner: str | None) -> bytes:
    name = b"" if owner is None else owner.encode()
    keep = 0.0 if delivery.keep_until is None else delivery.keep_until
    head = _STATE.pack(LETTERS[delivery.state], delivery.due, keep, delivery.tries, len(name))
    return b"".join((head, name, _encode(delivery.attempts)))


def deliveries_of(uid: str, reply: Sequence[Any]) -> Iterator[Delivery]:
    """The rows of a reply: id, record and state of each."""
    rows = iter(reply)
    for name, record, state in zip(rows, rows, rows, strict=True):
        subscription_id, _, number = name.rpartition(b":")
        body, ttl, created, client_id, kind = _decode_record(record)
        letter, due, keep, tries, length = _STATE.unpack_from(state)
        attempts_at = _STATE.size + length
        yield Delivery(
            uid,
            subscription_id.decode(),
            int(number, 16),
            body,
            ttl,
            created,
            client_id,
            due,
            kind,
            state[_STATE.size : attempts_at].decode() or None,
            _STATES[letter],
            tries,
            _decode_attempts(state[attempts_at:]),
            keep or None,
        )
