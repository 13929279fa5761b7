# SPDX-License-Identifier: Apache-2.0
"""Encodes a post as bytes, for drivers that keep posts in their outbox as one value (msgpack)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zaqar.model import NOT_EXPANDED, Draft, Message, Posted, PostPosition, is_sealed

_Packed = tuple[float, str, list[tuple[bytes, int, int]]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack_posted(drafts: Sequence[Draft], client_id: str, now: float) -> bytes:
    """The value for the outbox. The sequence numbers are not in it: some drivers get them only while they store it."""
    return _encode((now, client_id, [(draft.body, draft.ttl, draft.delay) for draft in drafts]))


def pack_dead_letter(dead_letter: Message, now: float) -> bytes:
    """The value for the outbox of a dead letter, which is a post of one message."""
    return pack_posted([Draft(dead_letter.body, dead_letter.ttl)], dead_letter.client_id, now)


def unpack_posted(packed: bytes, *, queue_uid: str, first: int, position: PostPosition = NOT_EXPANDED) -> Posted:
    """The post that ``pack_posted`` or ``pack_dead_letter`` has packed; ``first`` is its first sequence number."""
    created, client_id, drafts = _decode(packed)
    return Posted(queue_uid, first, client_id, created, tuple(Draft(*draft) for draft in drafts), position)


def first_sealed(packed: bytes, without: bytes) -> bytes | None:
    """The first sealed body of a packed post that does not begin with ``without``; None if there is none.

    With ``without`` b"" any sealed body counts.
    """
    _, _, drafts = _decode(packed)
    bodies = (body for body, _, _ in drafts if is_sealed(body) and not (without and body.startswith(without)))
    return next(bodies, None)
