# SPDX-License-Identifier: Apache-2.0
"""A session over a memory store, and a client that encodes and decodes its frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack

from tests.clock import FakeClock
from tests.sessions import answer
from zaqar import app, conf
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.session import Session, Sessions

CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
PROJECT = "9b0c4b8a6e8b4d0f9b1d3f5a7c9e1b2d"
HEADERS = {"Client-ID": CLIENT, "X-Project-ID": PROJECT}
FORMATS = (Format.JSON, Format.MESSAGEPACK)


def make_parts(clock: FakeClock | None = None, **options: Any) -> app.Parts:
    """The service on a memory store. Options are named ``group__option``, or ``option`` in [DEFAULT]."""
    configuration = conf.load([], default_config_files=[])
    for name, value in options.items():
        group, _, option = name.rpartition("__")
        configuration.set_override(option, value, group or None)
    return app.build(
        configuration,
        clock=clock or FakeClock(),
        management=MemoryManagementStore(),
        messages=MemoryMessageStore(),
    )


def pack(format_: Format, document: Any) -> str | bytes:
    packed: str | bytes = json.dumps(document) if format_ is Format.JSON else msgpack.packb(document)
    return packed


def unpack(frame: str | bytes) -> Any:
    return json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)


class Client:
    """Sends frames of one format to a session, and reads the replies."""

    def __init__(
        self,
        parts: app.Parts,
        actions: Mapping[str, Action] | None = None,
        *,
        format_: Format = Format.JSON,
        sessions: Sessions | None = None,
    ) -> None:
        self.session = Session(parts, connection="c1", actions=actions, sessions=sessions)
        self.format = format_

    def send(self, frame: Any) -> Any:
        """The reply to a frame. A frame that is neither text nor bytes is encoded first."""
        sent = frame if isinstance(frame, str | bytes) else pack(self.format, frame)
        reply = answer(self.session, sent)
        assert type(reply.frame) is type(sent)
        document = unpack(reply.frame)
        assert document["headers"]["status"] == reply.status
        assert set(document) == {"request", "body", "headers"}
        assert set(document["request"]) == {"action", "body", "api", "headers"}
        return document

    def call(self, action: str, body: Any = None, **headers: Any) -> Any:
        """The reply to an action. Headers are spelt as ``X_Auth_Token``; None leaves a header out."""
        sent = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        frame = {"action": action, "headers": {name: value for name, value in sent.items() if value is not None}}
        return self.send(frame if body is None else {**frame, "body": body})

    def status(self, action: str, body: Any = None, **headers: Any) -> int:
        status: int = self.call(action, body, **headers)["headers"]["status"]
        return status
