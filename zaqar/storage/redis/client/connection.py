# SPDX-License-Identifier: Apache-2.0
"""One connection. redis-py opens it (TLS, log-in, database); after that commands are written and replies read here.

redis-py spends about as much time on a command as Redis does. What it adds, retries above all, is not wanted either: a
post that was sent again after its answer was lost would be stored twice.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
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

MOST = 50
"""Connections to one server, unless the store is told otherwise."""

PATIENCE = 1.5
"""Seconds that an operation waits for a connection if all are in use."""

IDLE_SECONDS = 60.0
"""A connection that was not needed for so long is closed."""

Word = bytes | str | int | float

pack: Callable[[tuple[Word, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
"""One command as bytes; floats with all their digits. Its own annotation knows tuples of one word only."""


class AllInUse(redis.RedisError):
    """No connection became free in time."""


def is_refusal(error: BaseException | None) -> bool:
    """Whether the log-in was refused, or is missing: trying again does not help."""
    if isinstance(error, hiredis.ReplyError):
        return str(error).startswith(("NOAUTH", "WRONGPASS"))
    return isinstance(error, redis.AuthenticationError)


class Wire:
    """A connection to one server, for one thread at a time. Whoever gets an error closes it."""

    __slots__ = ("_connection", "_reader", "_sock", "used")

    def __init__(self, connection: Any) -> None:
        self._connection = connection  # which closes the socket when it is forgotten
        self._sock: Any = connection._sock
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self.used = time.monotonic()

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
        self.used = time.monotonic()
        return answers

    def receive(self, seconds: float) -> list[Any]:
        """What the server sends by itself. Waits up to ``seconds``, which are more than 0, for the first of it."""
        received = [*self._parsed()]
        if not received:
            self._sock.settimeout(seconds)
            try:
                data = self._sock.recv(_READ)
            except TimeoutError:
                return []
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
            received += self._parsed()
        return received

    def _parsed(self) -> Iterator[Any]:
        while (answer := self._reader.gets()) is not _MORE:
            yield answer

    def send(self, *words: Word, seconds: float) -> None:
        """Send a command whose reply ``receive`` will return."""
        self._sock.settimeout(seconds)
        self._sock.sendall(pack(words))

    def command(self, *words: bytes | str | int) -> Any:
        """One command; an error reply is raised."""
        (answer,) = self.exchange(pack(words), 1)
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def is_usable(self) -> bool:
        """Whether it can be sent to. A server that restarted meanwhile has closed it, which can be read here."""
        if time.monotonic() - self.used < _UNSEEN:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def peer(self) -> tuple[str, int]:
        """Whom it was opened to, as it was written then."""
        return str(self._connection.host), int(self._connection.port)

    def shut(self) -> None:
        """End a call of another thread that waits for data. The connection must still be closed."""
        with suppress(OSError):  # the server may have ended it already
            # Without TLS's own shutdown, which would change what the other thread is using.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

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


class _Waiting:
    """Somebody who waits for a connection. Once ``served`` it has a place in the pool, and ``wire`` is in it if any."""

    __slots__ = ("served", "wire")

    def __init__(self) -> None:
        self.served = threading.Event()
        self.wire: Wire | None = None


class Wires:
    """The connections to one server, ``most`` at a time. The last one that was used is taken first.

    So those that were opened for a burst are used no more after it, and are closed when they were idle for a while.
    Whoever finds none waits, and those who wait are served in the order in which they came.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._shrink_at = 0.0
        self.forget()

    def forget(self) -> None:
        """In a child process: the connections are the parent's."""
        # Closing them there would not end them here: redis-py only shuts down what its own process opened.
        self._idle: list[Wire] = []
        self._waiting: deque[_Waiting] = deque()
        self._places = 0
        """Connections that are open, or being opened."""
        self._lock = threading.Lock()
        """Held by whoever changes the number of places, or who waits. Taking and giving back do not need it."""

    def take(self, opening: Callable[[], Wire], *, fresh: bool = False) -> Wire:
        """A connection that can be used: an idle one, or what ``opening()`` opens; always that if ``fresh``.

        Whoever takes one either gives it back or discards it. Raises AllInUse, and what ``opening`` raises.
        """
        while self._idle and not self._waiting and not fresh:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if wire.is_usable():
                return wire
            self.discard(wire)
        given = self._wait_for_place()
        if given is not None:
            if not fresh and given.is_usable():
                return given
            given.close()
        try:
            return opening()
        except BaseException:
            self._leave_place()
            raise

    def _wait_for_place(self) -> Wire | None:
        """A place in the pool: with a connection in it, or None for one that has to be opened."""
        with self._lock:
            if self._places < self._most and not self._waiting:
                self._places += 1
                return None
            waiting = _Waiting()
            self._waiting.append(waiting)
        # One that was given back before somebody was seen to wait for it.
        self._serve_waiting()
        try:
            waiting.served.wait(PATIENCE)
        except BaseException:  # a greenlet that is killed must not take its place with it
            if not self._stop_waiting(waiting):
                if waiting.wire is not None:
                    self.give(waiting.wire)
                else:
                    self._leave_place()
            raise
        if self._stop_waiting(waiting):
            raise AllInUse(f"all {self._most} connections are in use")
        return waiting.wire

    def _stop_waiting(self, waiting: _Waiting) -> bool:
        """False if it was served."""
        with self._lock:
            if waiting.served.is_set():
                return False
            self._waiting.remove(waiting)
            return True

    def _serve_waiting(self) -> None:
        with self._lock:
            while self._waiting:
                wire = None
                try:
                    wire = self._idle.pop()
                except IndexError:
                    if self._places >= self._most:
                        return
                    self._places += 1
                waiting = self._waiting.popleft()
                waiting.wire = wire
                waiting.served.set()

    def _leave_place(self) -> None:
        with self._lock:
            self._places -= 1
        if self._waiting:
            self._serve_waiting()

    def give(self, wire: Wire) -> None:
        self._idle.append(wire)
        if self._waiting:
            self._serve_waiting()
        if wire.used > self._shrink_at:
            self.shrink(wire.used)

    def discard(self, wire: Wire) -> None:
        """Close one that was taken."""
        try:
            wire.close()
        finally:
            self._leave_place()

    def shrink(self, now: float) -> None:
        """Close those that were not needed for a while before ``now``, by ``time.monotonic``."""
        self._shrink_at = now + IDLE_SECONDS / 4
        for wire in [each for each in self._idle if each.used < now - IDLE_SECONDS]:
            try:
                self._idle.remove(wire)
            except ValueError:  # another thread took it
                continue
            self.discard(wire)

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took the last one
                return
            self.discard(wire)
