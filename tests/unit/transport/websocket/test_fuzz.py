# SPDX-License-Identifier: Apache-2.0
"""No frame breaks a session: one reply for each, never an error of the service, and nothing stored by a bad request."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.transport.websocket.frames import FORMATS, HEADERS, make_parts, pack, unpack
from tests.unit.transport.websocket.tokens import ALICE, Tokens, with_tokens
from zaqar.app import Parts
from zaqar.schemas import strict_json
from zaqar.service.nodes import Nodes
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.codec import Format, format_of
from zaqar.transport.websocket.session import Session, Sessions

KEY = "k" * 32
CONNECTION = "c" * 32
SLOW = {"check_node_health"}
"""This action waits for its threads, and does not read its body."""

quick = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

INT64 = st.integers(strict_json.INT64_MIN, strict_json.INT64_MAX)
SCALARS = st.none() | st.booleans() | INT64 | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NOT_JSON = (
    st.binary(max_size=9)
    | st.integers(2**63, 2**64 - 1)
    | st.just(msgpack.Timestamp(1))
    | st.just(msgpack.ExtType(1, b""))
)
NAMES = st.sampled_from(["q", "t", "", ".", "..", "a/b", "q\n", "q\0", "x" * 65, "\u00e9", "_dead-letters.1"])
IDS = st.sampled_from(["0" * 24, "a" * 36, "", "a/b", "..", "x" * 129, "\u00e9", "a\0"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": NAMES | IDS | st.text(max_size=30),
    "integer": st.sampled_from([-1, 0, 1, 20, 21, 60, 300, 2**31, 2**63 - 1]) | INT64,
    "boolean": st.booleans(),
    "array": st.lists(IDS | JSON | st.fixed_dictionaries({"body": JSON}, optional={"ttl": JSON}), max_size=4),
    "object": st.dictionaries(st.sampled_from(["_default_message_ttl", "a", ""]), JSON, max_size=3),
}


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Any]:
    """A frame that is nearly valid."""
    name = draw(st.sampled_from(sorted(set(ACTIONS) - SLOW)) | st.sampled_from(["authenticate", "nope", "", None, 1]))
    action = ACTIONS.get(name) if isinstance(name, str) else None
    body: Any = {}
    for field, described in (action.fields if action else {}).items():
        if draw(st.integers(0, 9)) < (9 if described.required else 4):
            usual = {"queue_name": "q", "topic_name": "t"}.get(field)
            choices = VALUES[described.type] if usual is None else st.just(usual) | st.just(usual) | NAMES
            body[field] = draw(choices if draw(st.integers(0, 9)) else JSON)
    if draw(st.integers(0, 9)) == 0:
        body = draw(JSON | st.dictionaries(st.text(max_size=12), JSON, max_size=3))
    headers: Any = dict(HEADERS)
    if draw(st.integers(0, 4)) == 0:
        known = ["Client-ID", "X-Project-ID", "x-project-id", "X-Roles", "EXTRA-SPEC", "X-Auth-Token", "URL-Signature"]
        headers |= draw(st.dictionaries(st.sampled_from([*known, "URL-Paths", "URL-Expires", ""]), JSON, max_size=3))
    if draw(st.integers(0, 19)) == 0:
        headers = draw(JSON)
    frame = {"action": name, "headers": headers, "body": body}
    for member in draw(st.lists(st.sampled_from(sorted(frame)), max_size=1)) if draw(st.integers(0, 9)) == 0 else []:
        del frame[member]
    return frame


def serve() -> Parts:
    """A process that can subscribe its connections."""
    parts = make_parts(admin_mode=True, signed_url__secret_key=KEY)
    parts.connection_subscriptions.serve_as(Nodes(parts.management, parts.clock).begin(path="", host="", port=0).id)
    return parts


@pytest.fixture(scope="module")
def parts() -> Parts:
    return serve()


def plain(value: Any) -> Any:
    """A value that can be compared with another one by its content."""
    if isinstance(value, dict):
        return {repr(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if not type(value).__module__.startswith("zaqar."):
        return repr(value)
    names = [*vars(value)] if hasattr(value, "__dict__") else list(type(value).__slots__)
    return {name: plain(getattr(value, name)) for name in names if "lock" not in name}


def stored(parts: Parts) -> Any:
    """All that the memory stores hold."""
    return [plain(store) for store in (parts.management, *parts.stores())]


def check(parts: Parts, session: Session, frame: str | bytes) -> int:
    """Send a frame and check the reply. Returns its status."""
    request = session.read(frame)
    reply = session.answer(request)
    if reply.pending is not None:
        reply = session.end_wait(request)
    assert type(reply.frame) is type(frame)
    answer = unpack(reply.frame)
    assert answer["headers"]["status"] == reply.status
    assert reply.status < 500, answer
    assert request.format is format_of(frame)
    if reply.status >= 400:
        body = answer["body"]
        # A second subscription of a connection, and the statistics of a queue that is absent, have bodies of their own.
        if not (reply.status == 409 and isinstance(body, str)) and not (reply.status == 404 and "messages" in body):
            assert isinstance(body["error"], str)
            assert body["error"]
    return reply.status


@quick
@given(frames(), st.sampled_from(FORMATS))
def test_frames_that_are_nearly_good(parts: Parts, frame: dict[str, Any], format_: Format) -> None:
    check(parts, Session(parts, connection=CONNECTION, sessions=SESSIONS), pack(format_, frame))


SESSIONS = Sessions()


@quick
@given(frames(), st.sampled_from(FORMATS))
def test_frames_that_are_nearly_good_with_keystone(parts: Parts, frame: dict[str, Any], format_: Format) -> None:
    guarded = with_tokens(parts, Tokens({"t": ALICE}))
    session = Session(guarded, connection=CONNECTION)
    check(guarded, session, pack(format_, frame))
    login = {"action": "authenticate", "headers": {**HEADERS, "X-Auth-Token": "t"}}
    session.answer(session.read(json.dumps(login)))
    check(guarded, session, pack(format_, frame))


@quick
@given(st.text() | st.binary() | JSON.map(json.dumps) | JSON.map(msgpack.packb))
@example("")
@example(b"")
@example(b"\xc1")
@example(b"\xdd\xff\xff\xff\xff")
@example('{"action":"queue_list","headers":{"Client-ID":"\\ud83d"}}')
@example("[" * 100_000)
@example(b"\x91" * 100_000)
def test_frames_of_anything(parts: Parts, frame: str | bytes) -> None:
    assert check(parts, Session(parts, connection=CONNECTION, sessions=SESSIONS), frame) == 400


@quick
@given(frames(), NOT_JSON, st.integers(0, 2**30))
def test_messagepack_that_json_has_no_form_of_is_refused_wherever_it_is(
    parts: Parts, frame: dict[str, Any], value: Any, place: int
) -> None:
    containers = [frame]
    for container in containers:
        containers += [inner for inner in container.values() if isinstance(inner, dict)]
    containers[place % len(containers)]["x"] = value
    session = Session(parts, connection=CONNECTION, sessions=SESSIONS)
    reply = session.answer(session.read(msgpack.packb(frame)))
    assert reply.status == 400


SAMPLES = [
    {"action": name, "headers": HEADERS, "body": dict(action.example)}
    for name, action in ACTIONS.items()
    if name not in SLOW
]
CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.binary(max_size=6)), min_size=1, max_size=4)


@settings(quick, max_examples=150)
@given(frames() | st.sampled_from(SAMPLES), st.sampled_from(FORMATS), CHANGES)
def test_good_frames_with_some_bytes_changed(
    parts: Parts, frame: dict[str, Any], format_: Format, changes: list[tuple[int, int, bytes]]
) -> None:
    """Each change inserts bytes, or replaces one or two others.

    The library of the server closes a connection that sends text that is not UTF-8, so frames of text are by then.
    """
    packed = pack(format_, frame)
    raw = bytearray(packed.encode() if isinstance(packed, str) else packed)
    for at, removed, inserted in changes:
        at %= len(raw) + 1
        raw[at : at + removed] = inserted
    changed = raw.decode(errors="replace") if format_ is Format.JSON else bytes(raw)
    check(parts, Session(parts, connection=CONNECTION, sessions=SESSIONS), changed)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(frames(), min_size=5, max_size=5), st.sampled_from(FORMATS))
def test_refused_frames_change_nothing(frames: list[dict[str, Any]], format_: Format) -> None:
    service = serve()
    session = Session(service, connection=CONNECTION, sessions=SESSIONS)
    for frame in frames:
        before = stored(service)
        reply = session.answer(session.read(pack(format_, frame)))
        if reply.status >= 400:
            assert stored(service) == before, (frame, reply.status)
