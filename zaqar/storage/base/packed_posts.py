# SPDX-License-Identifier: Apache-2.0
"""A post as the bytes that a driver keeps until its deliveries are made."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zaqar.model import NOT_EXPANDED, Draft, Message, Posted, PostPosition, is_sealed

_Packed = tuple[float, str, list[tuple[bytes, int, int]]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack_posted(drafts: Sequence[Draft], client_id: str, now: float) -> bytes:
    """What ``post`` writes beside the messages; their numbers are not in it, as some drivers learn them too late."""
    return _encode((now, client_id, [(draft.body, draft.ttl, draft.delay) for draft in drafts]))


def pack_letter(letter: Message, now: float) -> bytes:
    """The same for a dead letter that is received: a post of one message."""
    return pack_posted([Draft(letter.body, letter.ttl)], letter.client_id, now)


def unpack_posted(packed: bytes, *, queue_uid: str, first: int, position: PostPosition = NOT_EXPANDED) -> Posted:
    created, client_id, drafts = _decode(packed)
    return Posted(queue_uid, first, client_id, created, tuple(Draft(*draft) for draft in drafts), position)


def first_sealed(packed: bytes, without: bytes) -> bytes | None:
    """The first body of a post that is sealed and does not begin with ``without`` (b"" leaves out none), or None."""
    _, _, drafts = _decode(packed)
    bodies = (body for body, _, _ in drafts if is_sealed(body) and not (without and body.startswith(without)))
    return next(bodies, None)
