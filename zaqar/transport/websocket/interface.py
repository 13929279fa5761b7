# SPDX-License-Identifier: Apache-2.0
"""What a connection asks of the session, which knows the API and does no I/O of its own."""

from __future__ import annotations

from typing import Any, Protocol

from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import StoreUnavailable
from zaqar.model import Address


class Request(Protocol):
    """What the server has to know of a request that the session has read."""

    @property
    def action(self) -> str | None: ...
    @property
    def project(self) -> str | None: ...
    @property
    def address(self) -> Address | None: ...
    @property
    def reply(self) -> Any:
        """The reply, if reading it was enough to know that."""


class Reply(Protocol):
    """What the session answers."""

    @property
    def frame(self) -> str | bytes: ...
    @property
    def status(self) -> int: ...
    @property
    def close(self) -> tuple[int, str] | None: ...
    @property
    def is_outage(self) -> bool: ...


class Session(Protocol):
    """What the server asks of a session; :class:`zaqar.transport.websocket.session.Session` is the one."""

    @property
    def identity(self) -> Identity | None: ...
    @property
    def expires(self) -> float | None: ...
    def asks_keystone(self, request: Any) -> bool: ...
    def read(self, frame: str | bytes) -> Any: ...
    def answer(self, request: Any) -> Reply: ...
    def refuse(self, request: Any, error: StoreUnavailable) -> Reply: ...
    def revalidate(self) -> bool: ...
    def use(self, parts: Parts) -> None: ...
    def push(self, notification: Any) -> str | bytes: ...
