# SPDX-License-Identifier: Apache-2.0
"""The way to one server: its address is given, or Sentinels say which one is the master."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import hiredis
import redis

from zaqar.storage.redis.uri import RedisAddress
from zaqar.storage.redis.wire import ERRORS, LOST, Wire, Wires, is_refusal, open_wire

BOUND = 4.8
"""Seconds after which no attempt to connect goes on."""

_REST = 0.5
"""Seconds, at most, in which a server that could not be reached is not tried again."""

_NOT_THE_MASTER = ("READONLY", "MASTERDOWN", "UNBLOCKED")


class Dialler:
    """Tries to connect, as often and with such pauses as configured, but not for longer than requests can wait.

    Once it was in vain, requests are refused at once for a moment, and then one attempt is made at a time.
    """

    def __init__(self, *, attempts: int, pause: float) -> None:
        self._attempts = max(1, attempts)
        self._pause = pause
        self._away_since: float | None = None
        self._rest_until = 0.0
        self._last: Exception | None = None

    def dial(self, opening: Any, *, worst: float) -> Wire:
        """What ``opening()`` opens, which takes ``worst`` seconds at most; raises what is among ERRORS."""
        started = time.monotonic()
        if self._last is not None and started < self._rest_until:
            raise redis.ConnectionError("the server was away a moment ago") from self._last
        attempts = self._attempts if self._last is None else 1
        while True:
            try:
                wire: Wire = opening()
            except ERRORS as exc:
                attempts -= 1
                now = time.monotonic()
                if attempts == 0 or is_refusal(exc) or now + self._pause + worst > started + BOUND:
                    self._last = exc
                    self._rest_until = now + min(self._pause, _REST)
                    raise
            else:
                self._last = None
                return wire
            time.sleep(self._pause)


class ServerRoute:
    """To the one server there is, or to the master as the Sentinels see it."""

    is_cluster = False

    def __init__(self, address: RedisAddress, dialler: Dialler, *, connections: int) -> None:
        self._address = address
        self._dialler = dialler
        self._wires = Wires(connections)
        self._sentinels = list(address.hosts) if address.master is not None else []
        self._master: tuple[str, int] | None = None
        """The one that the Sentinels named last."""

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, again: bool) -> list[Any]:
        """Send and return the replies. What is ``again`` is sent once more where the connection ended meanwhile."""
        wire = self._wires.take(self._dial)
        try:
            answers = self._over(wire, data, replies)
        except LOST:
            if not again:
                raise
        else:
            # A master that became a replica has done nothing; with Sentinels there is somebody to ask for the new one.
            if not (self._sentinels and _are_elsewhere(answers)):
                return answers
        return self._over(self._wires.take(self._dial, fresh=True), data, replies)

    def _over(self, wire: Wire, data: bytes, replies: int) -> list[Any]:
        try:
            answers = wire.exchange(data, replies)
        except BaseException as exc:  # a greenlet may be killed while it waits
            self._wires.discard(wire)
            if isinstance(exc, ERRORS):
                self._wires.close()  # the others lead to the same server
            raise
        if _are_elsewhere(answers):
            self._wires.discard(wire)
            self._wires.close()
        else:
            self._wires.give(wire)
        return answers

    def _dial(self) -> Wire:
        timeout = self._address.socket_timeout
        worst = timeout if not self._sentinels else 2 * timeout
        return self._dialler.dial(self._open, worst=worst)

    def _open(self) -> Wire:
        address = self._address
        host, port = self._find_master() if self._sentinels else (address.hosts or (("", 0),))[0]
        wire = open_wire(address, host, port, timeout=address.socket_timeout)
        if self._sentinels and wire.command(b"ROLE")[0] != b"master":
            wire.close()
            raise redis.ReadOnlyError("what the Sentinels name is not a master (yet)")
        self._master = host, port
        return wire

    def _find_master(self) -> tuple[str, int]:
        """Ask one Sentinel after the other; the one that knows is asked first the next time."""
        address = self._address
        last: Exception | None = None
        for sentinel in list(self._sentinels):
            try:
                wire = open_wire(
                    address,
                    *sentinel,
                    timeout=address.socket_timeout / len(self._sentinels),
                    login=(address.sentinel_username, address.sentinel_password),
                    db=0,
                )
                found = wire.command(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", address.master or "")
                wire.close()
            except ERRORS as exc:
                last = exc
                continue
            if found is not None:
                self._sentinels = [sentinel, *(each for each in address.hosts if each != sentinel)]
                return found[0].decode(), int(found[1])
        raise redis.ConnectionError("no Sentinel names the master") from last

    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]:
        if not requests:
            return []
        return self.exchange(b"".join(data for _, data in requests), len(requests), again=True)

    def each_node(self, data: bytes, replies: int) -> list[list[Any]]:
        """The replies of every master: here of the one."""
        return [self.exchange(data, replies, again=True)]

    def open_apart(self) -> Wire:
        """A connection that is none of those for commands. One attempt."""
        return self._open()

    def leads_to(self, wire: Wire) -> bool:
        """Whether it leads to the server that commands go to: with Sentinels, to the master that they named last."""
        return not self._sentinels or wire.peer() == self._master

    def close(self) -> None:
        self._wires.close()

    def forget(self) -> None:
        self._wires.forget()


def _are_elsewhere(answers: Sequence[Any]) -> bool:
    """Of many commands those that write are refused; with a post there is only ``WAIT``."""
    return is_elsewhere(answers[0]) or (len(answers) > 2 and any(map(is_elsewhere, answers)))


def is_elsewhere(answer: Any) -> bool:
    """Whether this is what a server says that is not, or no longer, the master."""
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith(_NOT_THE_MASTER)
