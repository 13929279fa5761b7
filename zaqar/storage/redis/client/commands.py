# SPDX-License-Identifier: Apache-2.0
"""The server, or the servers, behind a store; and the one seam where errors on the way there are translated."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import hiredis

from zaqar.storage.base import Outage
from zaqar.storage.redis import uri
from zaqar.storage.redis.cluster import ClusterRoute
from zaqar.storage.redis.scripts import Script
from zaqar.storage.redis.server import Dialler, ServerRoute
from zaqar.storage.redis.uri import RedisAddress
from zaqar.storage.redis.wakeups import RedisWakeups
from zaqar.storage.redis.wire import ERRORS, MOST, Wire, Word, pack


class Route(Protocol):
    """How commands come to where they belong."""

    is_cluster: bool

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, again: bool) -> list[Any]: ...
    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]: ...
    def each_node(self, data: bytes, replies: int) -> list[list[Any]]: ...
    def open_apart(self) -> Wire: ...
    def leads_to(self, wire: Wire) -> bool: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


class Redis:
    """Safe for threads, and for processes that fork."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        attempts: int = 10,
        pause: float = 1.0,
        replicas: int = 0,
        wait: float = 1.0,
        connections: int = MOST,
    ) -> None:
        self.address = address
        self._outage = Outage.of(f"Redis at {address}")
        self.replicas = replicas
        make = ClusterRoute if address.cluster else ServerRoute
        self._route: Route = make(address, Dialler(attempts=attempts, pause=pause), connections=connections)
        self.is_cluster = self._route.is_cluster
        self._wait = pack((b"WAIT", replicas, round(wait * 1000))) if replicas else b""
        _open.add(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """What the options of a store name; nothing is connected yet. StartupError for a URI that cannot be used."""
        return cls(
            uri.parse(settings["uri"]),
            attempts=settings.get("max_reconnect_attempts", 10),
            pause=settings.get("reconnect_sleep", 1.0),
            replicas=settings.get("wait_replicas", 0),
            wait=settings.get("wait_timeout", 1.0),
            connections=settings.get("connections", MOST),
        )

    def run(self, script: Script, keys: Sequence[bytes], words: Sequence[Word], slot: int = 0) -> Any:
        """Run a script in one round trip; a second one where the server does not know it (any more)."""
        waits = self._wait if script.writes else b""
        count = 2 if waits else 1
        tail = (len(keys), *keys, *words)
        data = pack((b"EVALSHA", script.sha, *tail))
        try:
            answers = self._route.exchange(data + waits if waits else data, count, slot, again=script.again)
            if _is_unknown(answers[0]):
                data = pack((b"EVAL", script.source, *tail))
                answers = self._route.exchange(data + waits, count, slot, again=script.again)
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if waits and answers[1] < self.replicas:
            # Not acknowledged, though it may well be there: as with a connection that was lost.
            raise self._outage.failed(f"only {answers[1]} of {self.replicas} replicas have a write in time")
        if self._outage.since is not None:
            self._outage.succeeded()
        return answers[0]

    def command(self, *words: Word, slot: int = 0, again: bool = True) -> Any:
        """One plain command; StoreUnavailable for an error reply as well."""
        try:
            (answer,) = self._route.exchange(pack(words), 1, slot, again=again)
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        if isinstance(answer, hiredis.ReplyError):
            raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()
        return answer

    def in_each(self, slots: Sequence[int], requests: Sequence[tuple[Word, ...]]) -> list[Any]:
        """One plain command, which only reads, in each of many slots."""
        try:
            answers = self._route.exchange_many([*zip(slots, map(pack, requests), strict=True)])
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        return answers

    def run_in_each(self, script: Script, runs: Sequence[tuple[int, tuple[Word, ...]]]) -> list[Any]:
        """Run a script many times, for each with its slot, its number of keys, and these and its words.

        One round trip to each server; a second one to each that does not know the script (any more). The script may be
        sent again, and none of the runs waits for replicas.
        """
        answers: dict[int, Any] = {}
        missing = list(range(len(runs)))
        try:
            while missing:
                requests = [(runs[place][0], pack((b"EVALSHA", script.sha, *runs[place][1]))) for place in missing]
                answers.update(zip(missing, self._route.exchange_many(requests), strict=True))
                missing = [place for place in missing if _is_unknown(answers[place])]
                if missing:
                    # The server of the first one learns it, and maybe there are others that do not know it.
                    first = missing.pop(0)
                    slot, tail = runs[first]
                    data = pack((b"EVAL", script.source, *tail))
                    (answers[first],) = self._route.exchange(data, 1, slot, again=True)
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for answer in answers.values():
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()
        return [answers[place] for place in range(len(runs))]

    def subscribe(self, channel: bytes) -> RedisWakeups:
        """A new connection of its own that receives what is published there.

        StoreUnavailable, and NotSupported if the server does not let this user subscribe.
        """
        try:
            wire = self._route.open_apart()
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        try:
            return RedisWakeups(
                wire, channel, is_current=self._route.leads_to, reply_seconds=self.address.socket_timeout
            )
        except BaseException as exc:
            wire.close()
            if isinstance(exc, ERRORS):
                raise self._outage.failed(exc) from exc
            raise

    def ping(self) -> None:
        """Return when every master answers."""
        try:
            answers = self._route.each_node(pack((b"PING",)), 1)
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        for (answer,) in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._outage.failed(answer) from answer
        if self._outage.since is not None:
            self._outage.succeeded()

    def ask_each(self, *words: Word) -> list[Any]:
        """A plain command to every master; an error reply, such as for lack of permission, is None."""
        try:
            answers = self._route.each_node(pack(words), 1)
        except ERRORS as exc:
            raise self._outage.failed(exc) from exc
        return [None if isinstance(answer, hiredis.ReplyError) else answer for (answer,) in answers]

    def close(self) -> None:
        self._route.close()

    def forget(self) -> None:
        self._route.forget()


def _is_unknown(answer: Any) -> bool:
    """Whether the server does not know the script."""
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT")


# -- fork -------------------------------------------------------------------------------------------------------------

_open: weakref.WeakSet[Redis] = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_open):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)
