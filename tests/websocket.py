# SPDX-License-Identifier: Apache-2.0
"""A client of the WebSocket API for tests: synchronous, in JSON or MessagePack, one request at a time.

``with WebSocket(url, project="p") as client: client.request("queue_create", {"queue_name": "q"})``
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECONDS = 60.0
"""How long a test waits for a frame or a close that has to come."""


class Reply(NamedTuple):
    """The frame that answers a request."""

    status: int
    body: Any
    request: Mapping[str, Any]
    """The parts of the request that the reply repeats."""

    @property
    def error(self) -> str:
        """The sentence of an error."""
        sentence: str = self.body["error"]
        return sentence


@dataclass(frozen=True)
class Format:
    """One of the two encodings. ``kind`` is the type of its frames as the library hands them over."""

    name: str
    kind: type
    encode: Callable[[Any], str | bytes]
    decode: Callable[[Any], Any]


JSON = Format("json", str, json.dumps, json.loads)
MSGPACK = Format("msgpack", bytes, msgpack.packb, msgpack.unpackb)
FORMATS = {form.name: form for form in (JSON, MSGPACK)}


class WebSocket:
    """One connection, open until ``close``.

    ``project`` and ``client_id`` go into the headers of each request as X-Project-ID and Client-ID; an empty project is
    left out. ``headers`` are those of the handshake.
    """

    def __init__(
        self,
        url: str,
        *,
        project: str = "",
        client_id: str = "",
        form: Format = JSON,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.form = form
        self.client_id = client_id or str(uuid.uuid4())
        self.project = project
        self.pushes: deque[Any] = deque()
        """Notifications that came before an awaited reply."""
        settings: dict[str, Any] = {
            "additional_headers": dict(headers or {}),
            "compression": None,
            "max_size": None,
            "open_timeout": SECONDS,
            "ping_interval": None,
            # Not the proxy of the environment: all addresses here are on this machine.
            "proxy": None,
        }
        self._open = ExitStack()
        self.library = self._open.enter_context(connect(url, **{**settings, **options}))

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def abort(self) -> None:
        """End the TCP connection without a closing handshake, as a client that crashes does."""
        self.library.socket.shutdown(socket.SHUT_RDWR)

    # -- requests -----------------------------------------------------------------------------------------------------

    def frame(
        self, action: str, body: Any = None, headers: Mapping[str, Any] | None = None, *, form: Format | None = None
    ) -> str | bytes:
        """The frame of a request. A header that is None in ``headers`` is left out; without a body there is none."""
        named: dict[str, Any] = {"Client-ID": self.client_id}
        if self.project:
            named["X-Project-ID"] = self.project
        named |= headers or {}
        document = {"action": action, "headers": {name: value for name, value in named.items() if value is not None}}
        if body is not None:
            document["body"] = body
        return (form or self.form).encode(document)

    def request(
        self, action: str, body: Any = None, headers: Mapping[str, Any] | None = None, *, form: Format | None = None
    ) -> Reply:
        """The reply to a request. Pushes that come before it are kept in ``pushes``."""
        self.send(self.frame(action, body, headers, form=form))
        return self.reply(form or self.form)

    def authenticate(self, token: str, *, project: str | None = None) -> Reply:
        """The reply to ``authenticate`` with a token. From now on requests have ``project`` as X-Project-ID."""
        if project is not None:
            self.project = project
        return self.request("authenticate", headers={"X-Auth-Token": token})

    def send(self, frame: str | bytes) -> None:
        self.library.send(frame)

    def reply(self, form: Format | None = None) -> Reply:
        """The next frame that is no notification. It must be in the format of the request, or in ``form``."""
        form = form or self.form
        deadline = time.monotonic() + SECONDS
        while True:
            text, document = self._receive(deadline - time.monotonic())
            if not _is_push(document):
                break
            self.pushes.append(document)
        assert type(text) is form.kind, f"a reply in another format: {text!r}"
        assert set(document) == {"request", "body", "headers"}, document
        return Reply(document["headers"]["status"], document["body"], document["request"])

    # -- pushes and the end -------------------------------------------------------------------------------------------

    def push(self, *, seconds: float = SECONDS) -> Any:
        """The next notification or frame of a stream; TimeoutError if none comes in this time."""
        if self.pushes:
            return self.pushes.popleft()
        _, document = self._receive(seconds)
        assert _is_push(document), f"not a push: {document}"
        return document

    def closed(self, *, seconds: float = SECONDS) -> tuple[int, str]:
        """Wait until the server closes. Returns code and reason. Earlier notifications are kept in ``pushes``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                _, document = self._receive(deadline - time.monotonic())
            except ConnectionClosed as exc:
                # Without a close frame the code is 1006 (RFC 6455, section 7.1.5).
                return (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")
            assert _is_push(document), f"not a push: {document}"
            self.pushes.append(document)

    def _receive(self, seconds: float) -> tuple[str | bytes, Any]:
        text: Any = self.library.recv(timeout=max(0.0, seconds))
        form = JSON if isinstance(text, str) else MSGPACK
        return text, form.decode(text)


def _is_push(document: Any) -> bool:
    return isinstance(document, dict) and document.get("Message_Type") in ("Notification", "Stream")
