# SPDX-License-Identifier: Apache-2.0
"""The interface between a connection and its session, which knows the API and does no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import StoreUnavailable
from zaqar.model import QueueName
from zaqar.transport.websocket.action import Pending
from zaqar.transport.websocket.stream_table import StreamTable


class Addressed(Protocol):
    """A request or stream. Its queue or topic is ``queue_name``, None if it has none."""

    @property
    def queue_name(self) -> QueueName | None: ...


class Request(Protocol):
    """The part of a request, which the session has read, that the server uses."""

    @property
    def id(self) -> str: ...
    @property
    def action(self) -> str | None: ...
    @property
    def operation(self) -> object | None: ...
    @property
    def project(self) -> str | None: ...
    @property
    def queue_name(self) -> QueueName | None: ...
    @property
    def expires(self) -> float | None: ...
    @property
    def asks_others(self) -> bool: ...
    @property
    def reply(self) -> Any:
        """The reply, if it is known without carrying the request out; otherwise None."""


class Reply(Protocol):
    """The part of a reply of the session that the server uses."""

    @property
    def frame(self) -> str | bytes: ...
    @property
    def status(self) -> int: ...
    @property
    def close(self) -> tuple[int, str] | None: ...
    @property
    def is_outage(self) -> bool: ...
    @property
    def pending(self) -> Pending[Any] | None: ...
    @property
    def undo(self) -> Callable[[], None] | None: ...


class Session(Protocol):
    """The part of :class:`zaqar.transport.websocket.session.Session` that the server uses."""

    @property
    def identity(self) -> Identity | None: ...
    @property
    def expires(self) -> float | None: ...
    @property
    def streams(self) -> StreamTable: ...
    def asks_keystone(self, request: Any) -> bool: ...
    def read(self, frame: str | bytes) -> Any: ...
    def answer(self, request: Any, version: int | None = None) -> Reply: ...
    def end_wait(self, request: Any, *, retry_after: int | None = None) -> Reply: ...
    def refuse(self, request: Any, error: StoreUnavailable) -> Reply: ...
    def revalidate(self) -> bool: ...
    def use(self, parts: Parts) -> None: ...
    def push(self, notification: Any) -> str | bytes: ...


def is_answered(reply: Reply | None) -> bool | None:
    """Whether the store has answered; None if it was not asked, or if the request has waited for something else."""
    if reply is None:
        return None
    if reply.is_outage:
        return False
    return True if reply.status != StoreUnavailable.status else None
