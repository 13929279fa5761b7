# SPDX-License-Identifier: Apache-2.0
"""Scripts and commands for the server, or the servers, behind a store. All parts of the driver call it.

It is the one place of the driver that translates errors of redis-py and hiredis into StoreUnavailable.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import hiredis

from zaqar.storage.base import Outage
from zaqar.storage.redis.client import uri
from zaqar.storage.redis.client.cluster import ClusterRouter
from zaqar.storage.redis.client.connection import CLIENT_ERRORS, Argument, Connection, pack
from zaqar.storage.redis.client.pool import MAX_CONNECTIONS
from zaqar.storage.redis.client.scripts import Script
from zaqar.storage.redis.client.server import Connector, ServerRouter
from zaqar.storage.redis.client.uri import RedisAddress
from zaqar.storage.redis.client.wakeups import RedisWakeups


class Router(Protocol):
    """Sends packed commands to the server that has the slot; see ``client.server`` and ``client.cluster``."""

    is_cluster: bool

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, retry: bool) -> list[Any]: ...
    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]: ...
    def exchange_with_each_master(self, data: bytes, replies: int) -> list[list[Any]]: ...
    def open_extra_connection(self) -> Connection: ...
    def leads_to_master(self, connection: Connection) -> bool: ...
    def connections(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


class RedisClient:
    """One server, a master with Sentinels, or a Cluster. Safe for threads, and for processes that fork."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        attempts: int = 10,
        pause: float = 1.0,
        replicas: int = 0,
        wait: float = 1.0,
        connections: int = MAX_CONNECTIONS,
    ) -> None:
        """Connect later. ``pause`` and ``wait`` are seconds; ``replicas`` is the number that must confirm a change."""
        self.address = address
        self._outage = Outage.of(f"Redis at {address}")
        self.replicas = replicas
        make = ClusterRouter if address.cluster else ServerRouter
        self._router: Router = make(address, Connector(attempts=attempts, pause=pause), connections=connections)
        self.is_cluster = self._router.is_cluster
        self._wait = pack((b"WAIT", replicas, round(wait * 1000))) if replicas else b""
        _open_clients.add(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """A client as the options of a store say. Nothing is connected yet. Raises StartupError for a bad URI."""
        return cls(
            uri.parse(settings["uri"]),
            attempts=settings.get("max_reconnect_attempts", 10),
            pause=settings.get("reconnect_sleep", 1.0),
            replicas=settings.get("wait_replicas", 0),
            wait=settings.get("wait_timeout", 1.0),
            connections=settings.get("connections", MAX_CONNECTIONS),
        )

    def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument], slot: int = 0) -> Any:
        """Run a script in one round trip; in two if the server does not know the script (any more)."""
        waits = self._wait if script.durable else b""
        count = 2 if waits else 1
        tail = (len(keys), *keys, *arguments)
        data = pack((b"EVALSHA", script.sha, *tail))
        try:
            answers = self._router.exchange(data + waits if waits else data, count, slot, retry=script.idempotent)
            if _is_unknown_script(answers[0]):
                # The server has run nothing, so the whole script may be sent even if it is not idempotent.
                data = pack((b"EVAL", script.source, *tail))
                answers = self._router.exchange(data + waits, count, slot, retry=script.idempotent)
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if waits and answers[1] < self.replicas:
            # The change may be stored, but it is not acknowledged: the same as if the connection was lost.
            raise self._outage.failed(f"only {answers[1]} of {self.replicas} replicas have a write in time")
        if self._outage.since is not None:
            self._outage.succeeded()
        return answers[0]

    def command(self, *arguments: Argument, slot: int = 0) -> Any:
        """Run one plain, idempotent command. Raises StoreUnavailable for an error reply as well."""
        try:
            (answer,) = self._router.exchange(pack(arguments), 1, slot, retry=True)
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        if isinstance(answer, hiredis.ReplyError):
            raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()
        return answer

    def command_in_each_slot(self, slots: Sequence[int], requests: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Run one plain, idempotent command in each of many slots: one pipeline to each server."""
        try:
            answers = self._router.exchange_many([*zip(slots, map(pack, requests), strict=True)])
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        return answers

    def run_in_each_slot(self, script: Script, runs: Sequence[tuple[int, tuple[Argument, ...]]]) -> list[Any]:
        """Run a script many times, each with its slot and with: the number of keys, the keys, the arguments.

        One round trip to each server; a second one to each that does not know the script (any more). The script must be
        idempotent, and none of the runs waits for replicas.
        """
        answers: dict[int, Any] = {}
        missing = list(range(len(runs)))
        try:
            while missing:
                requests = [(runs[index][0], pack((b"EVALSHA", script.sha, *runs[index][1]))) for index in missing]
                answers.update(zip(missing, self._router.exchange_many(requests), strict=True))
                missing = [index for index in missing if _is_unknown_script(answers[index])]
                if missing:
                    # The whole script teaches it to the server of the first run. Others may not know it either, so go
                    # round again: each round teaches one server, and there are no more rounds than servers.
                    first = missing.pop(0)
                    slot, tail = runs[first]
                    data = pack((b"EVAL", script.source, *tail))
                    (answers[first],) = self._router.exchange(data, 1, slot, retry=True)
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers.values():
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()
        return [answers[index] for index in range(len(runs))]

    def command_on_each_master(self, *arguments: Argument) -> list[Any]:
        """The reply of every master to a plain command; None for an error reply, such as for lack of permission."""
        try:
            answers = self._router.exchange_with_each_master(pack(arguments), 1)
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        return [None if isinstance(answer, hiredis.ReplyError) else answer for (answer,) in answers]

    def subscribe(self, channel: bytes) -> RedisWakeups:
        """Open a connection of its own that receives what is published on ``channel``.

        Raises StoreUnavailable, and NotSupported if the server does not let this user subscribe.
        """
        try:
            connection = self._router.open_extra_connection()
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        try:
            return RedisWakeups(
                connection,
                channel,
                is_current=self._router.leads_to_master,
                reply_seconds=self.address.socket_timeout,
            )
        except BaseException as exc:
            connection.close()
            if isinstance(exc, CLIENT_ERRORS):
                raise self._outage.failed(exc) from exc
            raise

    def ping(self) -> None:
        """Return if every master answers."""
        try:
            answers = self._router.exchange_with_each_master(pack((b"PING",)), 1)
        except CLIENT_ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for (answer,) in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()

    def connections(self) -> tuple[int, int, int]:
        """How many pooled connections are in use, how many are idle, and how many there may be. Asks no server."""
        return self._router.connections()

    def close(self) -> None:
        self._router.close()

    def forget(self) -> None:
        """Leave all connections to the parent, in a child process."""
        self._router.forget()


def _is_unknown_script(answer: Any) -> bool:
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT")


# -- fork -------------------------------------------------------------------------------------------------------------

_open_clients: weakref.WeakSet[RedisClient] = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_open_clients):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)
