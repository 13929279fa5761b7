# SPDX-License-Identifier: Apache-2.0
"""One connection. redis-py opens it (TLS, log-in, database); after that commands are written and replies read here.

redis-py spends about as much time on a command as Redis does. What it adds, retries above all, is not wanted either: a
post that was sent again after its answer was lost would be stored twice.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from zaqar.storage.redis.uri import RedisAddress

ERRORS = (redis.RedisError, hiredis.HiredisError, OSError)
"""Whatever can go wrong on the way to a server and back."""

LOST = (redis.ConnectionError, ConnectionError, EOFError)
"""The connection ended; whether the server acted on the command is not known."""

# Not annotated by redis-py.
_Tcp: Any = Connection
_Tls: Any = SSLConnection
_UnixSocket: Any = UnixDomainSocketConnection

_MORE = object()
_READ = 65_536
_UNSEEN = 0.05
"""Seconds of rest after which a connection is looked at before it is used."""

Word = bytes | str | int | float

pack: Callable[[tuple[Word, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
"""One command as bytes; floats with all their digits. Its own annotation knows tuples of one word only."""


def is_refusal(error: BaseException | None) -> bool:
    """Whether the log-in was refused, or is missing: trying again does not help."""
    if isinstance(error, hiredis.ReplyError):
        return str(error).startswith(("NOAUTH", "WRONGPASS"))
    return isinstance(error, redis.AuthenticationError)


class Wire:
    """A connection to one server, for one thread at a time. Whoever gets an error closes it."""

    __slots__ = ("_connection", "_reader", "_sock", "_used")

    def __init__(self, connection: Any) -> None:
        self._connection = connection  # which closes the socket when it is forgotten
        self._sock: Any = connection._sock
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._used = time.monotonic()

    def exchange(self, data: bytes, replies: int) -> list[Any]:
        """Send commands and return that many replies; error replies are among them, as values."""
        self._sock.sendall(data)
        answers: list[Any] = []
        while len(answers) < replies:
            answer = self._reader.gets()
            if answer is _MORE:
                received = self._sock.recv(_READ)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                self._reader.feed(received)
            else:
                answers.append(answer)
        self._used = time.monotonic()
        return answers

    def command(self, *words: bytes | str | int) -> Any:
        """One command; an error reply is raised."""
        (answer,) = self.exchange(pack(words), 1)
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def is_usable(self) -> bool:
        """Whether it can be sent to. A server that restarted meanwhile has closed it, which can be read here."""
        if time.monotonic() - self._used < _UNSEEN:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def peer(self) -> tuple[str, int]:
        """Whom it was opened to, as it was written then."""
        return str(self._connection.host), int(self._connection.port)

    def close(self) -> None:
        self._connection.disconnect()


def open_wire(
    address: RedisAddress,
    host: str,
    port: int,
    *,
    timeout: float,
    login: tuple[str | None, str | None] | None = None,
    db: int | None = None,
) -> Wire:
    """Connect and log in; ``host`` and ``port`` do not matter for a unix socket. Raises what is among ERRORS."""
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
        connection = _UnixSocket(path=address.path, **options)
    else:
        options.update(host=host, port=port, socket_connect_timeout=timeout, socket_keepalive=True)
        if address.tls is None:
            connection = _Tcp(**options)
        else:
            connection = _Tls(
                ssl_ca_certs=address.tls.ca,
                ssl_certfile=address.tls.certificate,
                ssl_keyfile=address.tls.key,
                ssl_cert_reqs="required" if address.tls.verify else "none",
                ssl_check_hostname=address.tls.verify and address.tls.check_hostname,
                **options,
            )
    connection.connect()
    return Wire(connection)


class Wires:
    """The idle connections to one server; the last one that was used is taken first."""

    def __init__(self) -> None:
        self._idle: list[Wire] = []

    def take(self) -> Wire | None:
        """One that can be used, or None."""
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took the last one
                return None
            if wire.is_usable():
                return wire
            wire.close()
        return None

    def give(self, wire: Wire) -> None:
        self._idle.append(wire)

    def close(self) -> None:
        idle, self._idle = self._idle, []
        for wire in idle:
            wire.close()

    def forget(self) -> None:
        """In a child process: the connections are the parent's."""
        # Closing them there would not end them here: redis-py only shuts down what its own process opened.
        self._idle = []
