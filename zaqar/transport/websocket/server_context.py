# SPDX-License-Identifier: Apache-2.0
"""The objects that all connections of a process share. The server makes them at its start and after each reload."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from zaqar.clock import Clock
from zaqar.logs.access import AccessLog
from zaqar.metrics.recorder import Recorder
from zaqar.transport.websocket.admission import Admission
from zaqar.transport.websocket.connections import Connections
from zaqar.transport.websocket.interface import Addressed
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.transport.websocket.memory import Memory
from zaqar.transport.websocket.settings import Settings
from zaqar.transport.websocket.stream_sending import StreamReads
from zaqar.waiting.hub import Hub


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The settings and objects that all connections of a process share.

    ``decode`` decodes a large frame of a project in a thread. ``store_of`` returns the store that a request or a stream
    will use, without asking a store. ``is_subscribed`` tells whether the connection with an id has subscriptions, and
    ``closed`` is called with the id of a connection that is closed. ``authenticates`` tells whether clients have to
    authenticate. ``revalidation_seconds`` is the time between two checks of a token.
    """

    settings: Settings
    admission: Admission
    connections: Connections
    loop_time: LoopTime
    memory: Memory
    clock: Clock
    hub: Hub
    stream_reads: StreamReads
    decode: Callable[[str, Callable[[], Any]], Coroutine[Any, Any, Any]]
    store_of: Callable[[Addressed], Hashable]
    is_subscribed: Callable[[str], bool]
    closed: Callable[[str], None]
    recorder: Recorder | None
    access_log: AccessLog | None
    authenticates: bool
    revalidation_seconds: float
