# SPDX-License-Identifier: Apache-2.0
"""The WebSocket server: it accepts connections from a listening socket, serves them and closes them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Hashable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from zaqar.app import Parts
from zaqar.logs.access import AccessLog
from zaqar.metrics.families import WEBSOCKET_CONNECTIONS
from zaqar.metrics.recorder import Recorder
from zaqar.transport import probes
from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.accepting import AcceptingSocket, handle_exception
from zaqar.transport.websocket.admission import Admission, Slot
from zaqar.transport.websocket.connection import Connection
from zaqar.transport.websocket.connections import Connections
from zaqar.transport.websocket.interface import Addressed, Session
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.transport.websocket.memory import Memory
from zaqar.transport.websocket.origins import OriginPolicy
from zaqar.transport.websocket.protocol import BoundedConnection, Shared
from zaqar.transport.websocket.quiet_log import QuietLog
from zaqar.transport.websocket.refusals import explain, refuse
from zaqar.transport.websocket.server_context import ServerContext
from zaqar.transport.websocket.settings import Settings
from zaqar.transport.websocket.stream_sending import StreamReads

_log = logging.getLogger(__name__)
_quiet_log = QuietLog(_log)

_SHOWN_ORIGIN = 100
"""Characters of an origin that the log shows."""

_library_log = logging.getLogger(f"{__name__}.library")
# The debug lines of the library show frames, which may have tokens.
_library_log.setLevel(logging.WARNING)

DRAIN_SECONDS = 7.0
"""Time for requests that are under way when the server is told to stop."""

_CLOSE_SECONDS = 5.0
"""Time for a client to answer a close frame."""

_LAST_CLOSE_SECONDS = 1.0
"""Time for a client to answer a close frame while the server stops."""

_DECODERS = 4
"""Threads that decode large frames, three of them at a time. More would only wait for the interpreter lock."""

_DECODING_SECONDS = 30.0
"""How long a large frame may wait to be decoded."""

_BACKLOG = 2_048
"""Number of connections that may wait to be accepted."""

_REVALIDATION_SECONDS = 10.0
"""Time between two checks of a token if the cache of tokens is off."""

_ENDS = "The server ends."

MANAGEMENT = "management"
"""The store of a slot for requests that ask the management store."""

MakeSession = Callable[[Parts, str], Session]
"""Makes the session of the new connection with an id."""


class WebSocketServer:
    """Serves one listening socket. All methods are for the event loop only."""

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        *,
        make_session: MakeSession,
        closed: Callable[[str], None] = lambda connection: None,
    ) -> None:
        """``closed`` is called with the id of each connection that is closed."""
        self.connections = Connections()
        self._admission = Admission(settings.threads)
        self._make_session = make_session
        self._closed = closed
        # A separate pool of threads, so that decoding does not wait for calls to stores.
        most = settings.max_connections
        self._decoders = Admission(
            _DECODERS, max_wait=_DECODING_SECONDS, most_waiting=most, silent_seconds=float("inf")
        )
        self._loop_time = LoopTime()
        self._stream_reads = StreamReads(self._admission, self._loop_time)
        self._memory = Memory(settings.max_buffered_size)
        self._shared = Shared(self._loop_time, self._memory.incoming)
        self._server: Server | None = None
        self._admitted: set[ServerConnection] = set()
        self._is_stopping = False
        self.use(parts, settings)

    @property
    def is_busy(self) -> bool:
        """Whether requests are under way."""
        return self._admission.under_way > 0

    def use(self, parts: Parts, settings: Settings) -> None:
        """Use these parts and settings: new connections at once, open ones from their next request on.

        The listening socket and the number of threads do not change.
        """
        self._parts = parts
        self._settings = settings
        if parts.recorder is not None:
            parts.recorder.add_source(self._sample)
        self._memory.resize(settings.max_buffered_size)
        self._origins = OriginPolicy(parts.conf.cors.allowed_origin or ())
        self._context = ServerContext(
            settings=settings,
            admission=self._admission,
            connections=self.connections,
            loop_time=self._loop_time,
            memory=self._memory,
            clock=parts.clock,
            hub=parts.hub,
            recorder=parts.recorder,
            access_log=AccessLog.from_conf(parts.conf),
            stream_reads=self._stream_reads,
            decode=self._decode,
            store_of=self._store_of,
            is_subscribed=parts.connection_subscriptions.has_any,
            closed=self._closed,
            authenticates=parts.tokens is not None,
            revalidation_seconds=_revalidation_seconds(parts),
        )
        for connection in self.connections:
            connection.use(parts, self._context)

    def _sample(self, recorder: Recorder) -> None:
        recorder.set(WEBSOCKET_CONNECTIONS, (), len(self.connections))

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from a socket that is already listening, and take it over."""
        settings = self._settings
        listener = AcceptingSocket(listener)
        asyncio.get_running_loop().set_exception_handler(handle_exception)
        self._server = await serve(
            self._serve,
            sock=listener,
            create_connection=self._make_connection,  # type: ignore[arg-type]  # a factory is fine for the library
            process_request=self._check_request,
            process_response=explain,
            compression="deflate" if settings.compression else None,
            server_header=None,
            close_timeout=_CLOSE_SECONDS,
            max_size=settings.max_frame_size,
            max_queue=1,
            logger=_library_log,
        )
        # asyncio has set the backlog to 100. If more clients connect at the same time, their hosts retry only after a
        # second.
        listener.listen(_BACKLOG)

    def close_restarting(self, connection_id: str) -> None:
        """Close a connection whose subscriptions were removed because this process did not renew its lease in time."""
        if (connection := self.connections.find(connection_id)) is not None:
            connection.close(close_codes.SERVICE_RESTART, "Subscribe again.")

    async def stop(self) -> None:
        """Accept no more connections, answer the requests under way, and close all connections. Under 10 seconds."""
        server = self._server
        if server is None:
            return
        self._is_stopping = True
        server.close(close_connections=False)
        for connection in server.all_connections:
            connection.close_timeout = _LAST_CLOSE_SECONDS
            if isinstance(connection, BoundedConnection):
                connection.stop_lingering(_LAST_CLOSE_SECONDS)
        self._parts.hub.drain()
        for each in self.connections:
            each.close(close_codes.GOING_AWAY, _ENDS)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await server.wait_closed()
        except TimeoutError:
            _log.warning("%d connections did not close in time and are aborted.", len(self.connections))
            for each in self.connections:
                each.abort()
        self._admission.close()
        self._decoders.close()

    # -- the opening handshake ---------------------------------------------------------------------------------------

    def _check_request(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        headers = request.headers
        path, _, query = request.path.partition("?")
        if path in probes.PATHS:
            return self._answer_probe(path, query, headers.get("Accept", ""))
        if "websocket" not in ",".join(headers.get_all("Upgrade")).lower():
            response = refuse(HTTPStatus.UPGRADE_REQUIRED, "This port speaks WebSocket only.")
            response.headers["Upgrade"] = "websocket"
            return response
        host, origins = headers.get_all("Host"), headers.get_all("Origin")
        if not self._origins.admits(origins, host[0] if len(host) == 1 else None):
            # Log the reason, because browsers show their pages only that there is no connection.
            _quiet_log.tell(
                logging.INFO,
                HTTPStatus.FORBIDDEN,
                "A page of the origin %a may not connect; [cors] allowed_origin does not name it.",
                ", ".join(origins)[:_SHOWN_ORIGIN],
            )
            return refuse(
                HTTPStatus.FORBIDDEN, "Pages of this origin may not connect: [cors] allowed_origin does not name it."
            )
        if len(self._admitted) >= self._settings.max_connections:
            _quiet_log.tell(
                logging.WARNING,
                HTTPStatus.SERVICE_UNAVAILABLE,
                "A connection was refused, as there are %d; see [drivers:transport:websocket] max_connections.",
                len(self._admitted),
            )
            response = refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The server has too many connections.")
            response.headers["Retry-After"] = "5"
            return response
        # Count it now and not after the handshake, because many handshakes may be under way at the same time.
        self._admitted.add(connection)
        return None

    def _answer_probe(self, path: str, query: str, accept: str) -> Response:
        # The library serves GET only.
        answer = probes.Probes(self._parts.readiness).answer(path, query=query, accept=accept)
        content = answer.body.encode()
        headers = Headers(
            {
                "Content-Type": answer.content_type,
                "Content-Length": str(len(content)),
                "Cache-Control": probes.NO_STORE,
                "Connection": "close",
            }
        )
        return Response(answer.status, HTTPStatus(answer.status).phrase, headers, content)

    # -- a connection ------------------------------------------------------------------------------------------------

    def _make_connection(self, *args: Any, **kwargs: Any) -> BoundedConnection:
        settings = self._settings
        connection = BoundedConnection(*args, **kwargs, shared=self._shared, lost=self._admitted.discard)
        connection.use(settings)
        # Clients that send a handshake are refused with a reason. This limit is for many that send none.
        most = settings.max_connections + settings.max_handshakes
        connection.is_surplus = len(connection.server.handler_tasks) >= most
        return connection

    async def _serve(self, socket: ServerConnection) -> None:
        if not isinstance(socket, BoundedConnection):
            raise TypeError("the library made a connection of its own")
        if self._is_stopping:
            await socket.close(close_codes.GOING_AWAY, _ENDS)
            return
        connection = Connection(socket, self._make_session(self._parts, socket.id.hex), self._context)
        await connection.run()

    async def _decode(self, project: str, read: Callable[[], Any]) -> Any:
        return await self._decoders.run(Slot(project, None, None), read)

    def _store_of(self, request: Addressed) -> Hashable:
        """The store of the queue if that is in the cache, otherwise the management store, which is asked first."""
        known = None if request.queue_name is None else self._parts.queues.remembered(request.queue_name)
        return MANAGEMENT if known is None else known.store_ref


def _revalidation_seconds(parts: Parts) -> float:
    """Seconds between two checks of a token. Equal to the time for which the cache of tokens keeps an answer."""
    return float("inf") if parts.tokens is None else parts.tokens.cache_seconds or _REVALIDATION_SECONDS
