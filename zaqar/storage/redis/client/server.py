# SPDX-License-Identifier: Apache-2.0
"""Commands for one server: its address is configured, or Sentinels name the master."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis

from zaqar.storage.redis.client.connection import (
    CLIENT_ERRORS,
    CONNECTION_LOST,
    Connection,
    is_refusal,
    open_connection,
)
from zaqar.storage.redis.client.pool import ConnectionPool
from zaqar.storage.redis.client.uri import RedisAddress

CONNECT_SECONDS = 4.8
"""An operation does not go on trying to connect for longer."""

_REFUSE_SECONDS = 0.5
"""Maximum time for which a server that could not be reached is not tried again."""

_NOT_MASTER_ERRORS = ("READONLY", "MASTERDOWN", "UNBLOCKED")


class Connector:
    """Connects with the configured number of attempts and pauses, but within the time that a request can wait.

    After a failure, operations are refused at once for a moment. Then each operation makes one attempt.
    """

    def __init__(self, *, attempts: int, pause: float) -> None:
        self._attempts = max(1, attempts)
        self._pause = pause
        self._refuse_until = 0.0
        self._last_error: Exception | None = None

    def connect(self, opening: Callable[[], Connection], *, worst: float) -> Connection:
        """Return what ``opening()`` opens. It takes at most ``worst`` seconds. Raises one of CLIENT_ERRORS."""
        started = time.monotonic()
        if self._last_error is not None and started < self._refuse_until:
            raise redis.ConnectionError("the server was away a moment ago") from self._last_error
        attempts = self._attempts if self._last_error is None else 1
        while True:
            try:
                connection = opening()
            except CLIENT_ERRORS as exc:
                attempts -= 1
                now = time.monotonic()
                if attempts == 0 or is_refusal(exc) or now + self._pause + worst > started + CONNECT_SECONDS:
                    self._last_error = exc
                    self._refuse_until = now + min(self._pause, _REFUSE_SECONDS)
                    raise
            else:
                self._last_error = None
                return connection
            time.sleep(self._pause)


class ServerRouter:
    """Sends commands to the one server, or to the master that the Sentinels name."""

    is_cluster = False

    def __init__(self, address: RedisAddress, connector: Connector, *, connections: int) -> None:
        self._address = address
        self._connector = connector
        self._connections = connections
        self._pool = ConnectionPool(connections)
        self._sentinels = list(address.hosts) if address.master is not None else []
        self._master: tuple[str, int] | None = None
        """The master that the Sentinels named last."""

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, retry: bool) -> list[Any]:
        """Send packed commands and return their replies; ``retry`` allows to send them again.

        If the connection ends before the replies are there, the server may have run the commands. So they are sent
        again only if ``retry`` is set.
        """
        connection = self._pool.take(self._connect)
        try:
            answers = self._exchange_on(connection, data, replies)
        except CONNECTION_LOST:
            if not retry:
                raise
        else:
            # A server that refused because it is a replica has done nothing, so the commands may be sent again
            # whatever they are. Without Sentinels there is no other server to send them to.
            if not (self._sentinels and _any_refused_by_replica(answers)):
                return answers
        return self._exchange_on(self._pool.take(self._connect, fresh=True), data, replies)

    def _exchange_on(self, connection: Connection, data: bytes, replies: int) -> list[Any]:
        try:
            answers = connection.exchange(data, replies)
        except BaseException as exc:  # a greenlet may be killed while it waits
            self._pool.discard(connection)
            if isinstance(exc, CLIENT_ERRORS):
                self._pool.close()  # the idle ones lead to the same server
            raise
        if _any_refused_by_replica(answers):
            self._pool.discard(connection)
            self._pool.close()
        else:
            self._pool.give(connection)
        return answers

    def _connect(self) -> Connection:
        timeout = self._address.socket_timeout
        worst = timeout if not self._sentinels else 2 * timeout
        return self._connector.connect(self._open, worst=worst)

    def _open(self) -> Connection:
        address = self._address
        host, port = self._find_master() if self._sentinels else (address.hosts or (("", 0),))[0]
        connection = open_connection(address, host, port, timeout=address.socket_timeout)
        if self._sentinels and connection.command(b"ROLE")[0] != b"master":
            # During a fail-over a Sentinel may name a server that is still a replica, or the old master.
            connection.close()
            raise redis.ReadOnlyError("what the Sentinels name is not a master (yet)")
        self._master = host, port
        return connection

    def _find_master(self) -> tuple[str, int]:
        """Ask one Sentinel after the other. The Sentinel that answered is asked first the next time."""
        address = self._address
        last: Exception | None = None
        for sentinel in list(self._sentinels):
            try:
                connection = open_connection(
                    address,
                    *sentinel,
                    timeout=address.socket_timeout / len(self._sentinels),
                    login=(address.sentinel_username, address.sentinel_password),
                    db=0,
                )
                found = connection.command(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", address.master or "")
                connection.close()
            except CLIENT_ERRORS as exc:
                last = exc
                continue
            if found is not None:
                self._sentinels = [sentinel, *(each for each in address.hosts if each != sentinel)]
                return found[0].decode(), int(found[1])
        raise redis.ConnectionError("no Sentinel names the master") from last

    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send one packed command for each of many slots in one pipeline; they may be sent again."""
        if not requests:
            return []
        return self.exchange(b"".join(data for _, data in requests), len(requests), retry=True)

    def exchange_with_each_master(self, data: bytes, replies: int) -> list[list[Any]]:
        """The replies of every master: of the one server."""
        return [self.exchange(data, replies, retry=True)]

    def open_extra_connection(self) -> Connection:
        """Open a connection that is not of the pool, for a subscription. One attempt."""
        return self._open()

    def leads_to_master(self, connection: Connection) -> bool:
        """Whether commands go to the server of this connection; with Sentinels: to the master that they named last."""
        return not self._sentinels or connection.peer() == self._master

    def connections(self) -> tuple[int, int, int]:
        """How many connections are in use, how many are idle, and how many there may be."""
        return (*self._pool.count(), self._connections)

    def close(self) -> None:
        self._pool.close()

    def forget(self) -> None:
        self._pool.forget()


def _any_refused_by_replica(answers: Sequence[Any]) -> bool:
    """Look at the first reply, and at all of a pipeline, in which only the writes are refused.

    A second reply that comes with a script is that of ``WAIT``.
    """
    return _is_refused_by_replica(answers[0]) or (len(answers) > 2 and any(map(_is_refused_by_replica, answers)))


def _is_refused_by_replica(answer: Any) -> bool:
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith(_NOT_MASTER_ERRORS)
