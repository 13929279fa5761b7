# SPDX-License-Identifier: Apache-2.0
"""A client of event streams: a parser as in the HTML standard (section 9.2.6), and a reader of one stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from falcon import testing

ACCEPT = "text/event-stream"


class ServerEvent(NamedTuple):
    """An event as a browser dispatches it. A comment has the type ":", and an id without data has the type ""."""

    type: str
    data: str
    last_id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Parser:
    """Parses bytes into events. ``last_id`` is the Last-Event-ID that a browser would send, "" for none."""

    def __init__(self) -> None:
        self._buffer = b""
        self._type = ""
        self._data: list[str] = []
        self._id = self.last_id = ""
        self.retry: int | None = None

    def feed(self, received: bytes) -> Iterator[ServerEvent]:
        # The service ends lines with LF only.
        assert b"\r" not in received
        self._buffer += received
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            event = self._take(line.decode())
            if event is not None:
                yield event

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            changed, self.last_id = self._id != self.last_id, self._id
            type_, data, self._type, self._data = self._type, self._data, "", []
            if not data:
                return ServerEvent("", "", self.last_id) if changed else None
            return ServerEvent(type_ or "message", "\n".join(data), self.last_id)
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                return ServerEvent(":", value, self.last_id)
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id":
                assert "\x00" not in value
                self._id = value
            case "retry":
                self.retry = int(value)
            case _:
                raise AssertionError(f"no field of an event stream: {line!r}")
        return None


class Reader:
    """One request for a stream, in this thread. ``status`` and ``headers`` belong to the answer."""

    def __init__(
        self,
        application: Callable[..., Any],
        path: str,
        headers: Mapping[str, str],
        *,
        accept: str = ACCEPT,
        environ: Mapping[str, Any] | None = None,
    ) -> None:
        path, _, query = path.partition("?")
        self.environ = testing.create_environ(path, query_string=query, headers={"Accept": accept, **headers})
        self.environ |= environ or {}
        self.status, self.headers = 0, {}
        self._body = application(self.environ, self._start)
        self._pieces = iter(self._body)
        self.parser = Parser()
        self._events: list[ServerEvent] = []
        self.is_over = False
        self.content = b"" if self.status == 200 else b"".join(self._pieces)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        self.status = int(status.split()[0])
        self.headers: dict[str, str] = {name.lower(): value for name, value in headers}
        return lambda _: None

    def piece(self) -> bytes:
        """The next bytes that the application writes; b"" after the end."""
        try:
            piece: bytes = next(self._pieces)
        except StopIteration:
            self.is_over = True
            return b""
        self._events += self.parser.feed(piece)
        return piece

    def next(self) -> ServerEvent:
        """The next event. The stream must not end before it."""
        while not self._events:
            assert self.piece(), "the stream has ended"
        return self._events.pop(0)

    def take(self, count: int) -> list[ServerEvent]:
        return [self.next() for _ in range(count)]

    def bodies(self, count: int) -> list[Any]:
        """The bodies of the next events, which must be messages."""
        events = self.take(count)
        assert [event.type for event in events] == ["message"] * count
        return [event.json["body"] for event in events]

    def close(self) -> None:
        """End the request, as a server does after a response or when the connection is closed."""
        if hasattr(self._body, "close"):
            self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
