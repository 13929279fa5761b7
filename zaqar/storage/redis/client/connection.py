# SPDX-License-Identifier: Apache-2.0
"""One connection to one server. ``client.pool`` keeps connections, ``client.server`` and ``client.cluster`` use them.

redis-py opens a connection (TLS, log-in, database). After that this module writes commands and reads replies itself.
redis-py spends about as much time on a command as Redis does, and its retries are not wanted: a post that is sent again
after its answer was lost would be stored twice.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import hiredis
import redis
from redis import connection as library
from redis.backoff import NoBackoff
from redis.retry import Retry

from zaqar.storage.redis.client.uri import RedisAddress

CLIENT_ERRORS = (redis.RedisError, hiredis.HiredisError, OSError)
"""Everything that can go wrong between this process and a server."""

CONNECTION_LOST = (redis.ConnectionError, ConnectionError, EOFError)
"""The connection ended. It is unknown whether the server ran the command."""

# redis-py does not annotate these classes.
_TcpConnection: Any = library.Connection
_TlsConnection: Any = library.SSLConnection
_UnixSocketConnection: Any = library.UnixDomainSocketConnection

_INCOMPLETE = object()
"""What the parser returns if it needs more data for the next reply."""

_READ_BYTES = 65_536

_CHECK_AFTER_SECONDS = 0.05
"""A connection that was idle for longer is checked before it is used."""

Argument = bytes | str | int | float

pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
"""Encode one command; floats keep all digits. hiredis annotates it for tuples of one element only."""


def is_refusal(error: BaseException | None) -> bool:
    """Whether the server refused the log-in or demands one. To try again does not help."""
    if isinstance(error, hiredis.ReplyError):
        return str(error).startswith(("NOAUTH", "WRONGPASS"))
    return isinstance(error, redis.AuthenticationError)


class Connection:
    """A connection to one server, for one thread at a time. A caller that gets an error must close it."""

    __slots__ = ("_library_connection", "_reader", "_socket", "used")

    def __init__(self, library_connection: Any) -> None:
        self._library_connection = library_connection
        """redis-py's own object. It closes the socket when it is garbage-collected, so it is kept."""
        self._socket: Any = library_connection._sock
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self.used = time.monotonic()
        """When the last reply came, by ``time.monotonic``."""

    def exchange(self, data: bytes, replies: int) -> list[Any]:
        """Send packed commands and return that many replies. Error replies are among them, as values."""
        self._socket.sendall(data)
        answers: list[Any] = []
        while len(answers) < replies:
            answer = self._reader.gets()
            if answer is _INCOMPLETE:
                received = self._socket.recv(_READ_BYTES)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                self._reader.feed(received)
            else:
                answers.append(answer)
        self.used = time.monotonic()
        return answers

    def command(self, *arguments: bytes | str | int) -> Any:
        """Run one command. An error reply is raised as ``hiredis.ReplyError``."""
        (answer,) = self.exchange(pack(arguments), 1)
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def send(self, *arguments: Argument, seconds: float) -> None:
        """Send a command within ``seconds``; ``receive`` will return its reply."""
        self._socket.settimeout(seconds)
        self._socket.sendall(pack(arguments))

    def receive(self, seconds: float) -> list[Any]:
        """Return what the server sends unasked, [] if nothing comes within ``seconds`` (more than 0)."""
        received = [*self._parsed()]
        if not received:
            self._socket.settimeout(seconds)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                return []
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
            received += self._parsed()
        return received

    def _parsed(self) -> Iterator[Any]:
        while (answer := self._reader.gets()) is not _INCOMPLETE:
            yield answer

    def is_usable(self) -> bool:
        """Whether commands can be sent. If a restarted server closed it, the socket is readable here."""
        if time.monotonic() - self.used < _CHECK_AFTER_SECONDS:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def peer(self) -> tuple[str, int]:
        """Host and port, as the caller of ``open_connection`` wrote them."""
        return str(self._library_connection.host), int(self._library_connection.port)

    def shut(self) -> None:
        """End a call of another thread that waits for data. The connection must still be closed."""
        with suppress(OSError):  # the server may have ended it already
            # The plain shutdown, not that of TLS, which would change state that the other thread is using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._library_connection.disconnect()


def open_connection(
    address: RedisAddress,
    host: str,
    port: int,
    *,
    timeout: float,
    login: tuple[str | None, str | None] | None = None,
    db: int | None = None,
) -> Connection:
    """Connect and log in. A unix socket of ``address`` takes precedence over ``host`` and ``port``.

    ``timeout`` is in seconds, for connecting and for each reply. ``login`` and ``db`` default to those of ``address``.
    Raises one of CLIENT_ERRORS.
    """
    username, password = login or (address.username, address.password)
    options: dict[str, Any] = {
        "db": address.db if db is None else db,
        "username": username,
        "password": password,
        "socket_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.path is not None:
        connection = _UnixSocketConnection(path=address.path, **options)
    else:
        options.update(host=host, port=port, socket_connect_timeout=timeout, socket_keepalive=True)
        if address.tls is None:
            connection = _TcpConnection(**options)
        else:
            connection = _TlsConnection(
                ssl_ca_certs=address.tls.ca,
                ssl_certfile=address.tls.certificate,
                ssl_keyfile=address.tls.key,
                ssl_cert_reqs="required" if address.tls.verify else "none",
                ssl_check_hostname=address.tls.verify and address.tls.check_hostname,
                **options,
            )
    connection.connect()
    return Connection(connection)
