# SPDX-License-Identifier: Apache-2.0
"""Encodes a post as bytes, for drivers that keep posts in their outbox as one value (msgpack)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zaqar.model import NOT_EXPANDED, Draft, Message, Posted, PostPosition, is_sealed


class _PackedDraft(msgspec.Struct, array_like=True):
    body: bytes
    ttl: int
    delay: int
    trace: str | None = None


class _PackedPost(msgspec.Struct, array_like=True):
    created: float
    client_id: str
    drafts: list[_PackedDraft]
    request_id: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_PackedPost).decode


def pack_posted(drafts: Sequence[Draft], client_id: str, now: float, request_id: str) -> bytes:
    """The value for the outbox. The sequence numbers are not in it: some drivers get them only while they store it."""
    # PERF: plain tuples are encoded faster than structs. A draft without a trace leaves its field out.
    packed = [
        (draft.body, draft.ttl, draft.delay)
        if draft.trace is None
        else (draft.body, draft.ttl, draft.delay, draft.trace)
        for draft in drafts
    ]
    return _encode((now, client_id, packed, request_id))


def pack_dead_letter(dead_letter: Message, now: float) -> bytes:
    """The value for the outbox of a dead letter, which is a post of one message and of no request."""
    draft = Draft(dead_letter.body, dead_letter.ttl, trace=dead_letter.trace)
    return pack_posted([draft], dead_letter.client_id, now, "")


def unpack_posted(packed: bytes, *, queue_uid: str, first: int, position: PostPosition = NOT_EXPANDED) -> Posted:
    """The post that ``pack_posted`` or ``pack_dead_letter`` has packed; ``first`` is its first sequence number."""
    post = _decode(packed)
    drafts = tuple(Draft(draft.body, draft.ttl, draft.delay, trace=draft.trace) for draft in post.drafts)
    return Posted(queue_uid, first, post.client_id, post.created, drafts, position, post.request_id)


def first_sealed(packed: bytes, without: bytes) -> bytes | None:
    """The first sealed body of a packed post that does not begin with ``without``; None if there is none.

    With ``without`` b"" any sealed body counts.
    """
    bodies = (draft.body for draft in _decode(packed).drafts)
    return next((body for body in bodies if is_sealed(body) and not (without and body.startswith(without))), None)
