# SPDX-License-Identifier: Apache-2.0
"""The way to the nodes of a Cluster: each slot has a master, and slots and masters move."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import redis

from zaqar.storage.redis.server import BOUND, Dialler
from zaqar.storage.redis.uri import RedisAddress
from zaqar.storage.redis.wire import ERRORS, IDLE_SECONDS, LOST, AllInUse, Wire, Wires, is_refusal, open_wire, pack

Node = tuple[str, int]

_PATIENCE = 2.0
"""Seconds in which an operation is tried again that a node refused, for the slot is on its way or has no master yet."""

_PAUSE = 0.05
_TOGETHER = 500
_ASKING = pack((b"ASKING",))


class ClusterRoute:
    """To the master of a slot. What a node refuses it has not done, so that is sent again, to where it belongs."""

    is_cluster = True

    def __init__(self, address: RedisAddress, dialler: Dialler, *, connections: int) -> None:
        self._address = address
        self._dialler = dialler
        self._connections = connections
        self._wires: dict[Node, Wires] = {}
        self._shrink_at = 0.0
        self._masters: list[tuple[int, int, Node]] = []
        """First and last slot, and who has them; replaced as a whole."""
        self._nodes: tuple[Node | None, ...] = ()
        """By slot."""

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, again: bool) -> list[Any]:
        return self._exchange(data, replies, slot, again=again, end=time.monotonic() + _PATIENCE)

    def _exchange(self, data: bytes, replies: int, slot: int, *, again: bool, end: float) -> list[Any]:
        node = self._master_of(slot)
        asking = False
        while True:
            wire = self._take(node)
            if wire is None:
                # Nothing was sent. The node may have a successor.
                looked, node, asking = node, self._master_of(slot), False
                wire = self._take(node) if node != looked else None
                if wire is None:
                    raise redis.ConnectionError(f"{node[0]}:{node[1]}, which has slot {slot}, does not answer")
            try:
                answers = self._over(node, wire, data, replies, asking=asking)
            except LOST:
                self._nodes = ()
                if not again:
                    raise
                again = False
                node, asking = self._master_of(slot), False
                continue
            except ERRORS:
                self._nodes = ()
                raise
            kind, _, rest = _refusal(answers[0])
            if kind not in _ELSEWHERE or time.monotonic() > end:
                return answers
            asking = kind == "ASK"
            if kind == "MOVED":
                self._nodes = ()
                node = self._master_of(slot)
            elif kind == "ASK":
                node = _node(rest.partition(" ")[2], node)
            else:
                time.sleep(_PAUSE)
                self._nodes = ()
                node = self._master_of(slot)

    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]:
        """The one reply to each of many requests for different slots, those for one node sent together.

        All may be sent again.
        """
        answers: dict[int, Any] = {}
        # One end for all of them, or each slot that nobody serves would take that long.
        end = time.monotonic() + _PATIENCE
        by_node: dict[Node, list[int]] = {}
        for place, (slot, _) in enumerate(requests):
            by_node.setdefault(self._master_of(slot), []).append(place)
        for node, places in by_node.items():
            for start in range(0, len(places), _TOGETHER):
                some = places[start : start + _TOGETHER]
                wire = self._take(node)
                if wire is not None:
                    data = b"".join(requests[place][1] for place in some)
                    with suppress(*LOST):  # what is missing then is asked for one by one
                        answers.update(zip(some, self._over(node, wire, data, len(some)), strict=True))
        return [
            answers[place]
            if place in answers and _refusal(answers[place])[0] not in _ELSEWHERE
            else self._exchange(data, 1, slot, again=True, end=end)[0]
            for place, (slot, data) in enumerate(requests)
        ]

    def each_node(self, data: bytes, replies: int) -> list[list[Any]]:
        self._master_of(0)
        nodes = dict.fromkeys(node for _, _, node in self._masters)
        return [self._over(node, self._wires_of(node).take(partial(self._open, node)), data, replies) for node in nodes]

    def open_apart(self) -> Wire:
        """A connection to any master that is none of those for commands. Processes spread over the masters."""
        if not self._nodes:
            self._look()
        nodes = [*{node for _, _, node in self._masters}]
        random.shuffle(nodes)
        last: Exception | None = None
        end = time.monotonic() + BOUND / 2
        for node in nodes:
            try:
                return self._open(node)
            except ERRORS as exc:
                self._nodes = ()
                last = exc
                if is_refusal(exc) or time.monotonic() > end:
                    break
        raise redis.ConnectionError("no master of the Cluster answers") from last

    def leads_to(self, wire: Wire) -> bool:
        """Whether it leads to a master as the map of slots says."""
        return any(node == wire.peer() for _, _, node in self._masters)

    def _over(self, node: Node, wire: Wire, data: bytes, replies: int, *, asking: bool = False) -> list[Any]:
        wires = self._wires[node]
        try:
            answers = wire.exchange(_ASKING + data, replies + 1)[1:] if asking else wire.exchange(data, replies)
        except BaseException as exc:  # a greenlet may be killed while it waits
            wires.discard(wire)
            if isinstance(exc, ERRORS):
                wires.close()
            raise
        wires.give(wire)
        if wire.used > self._shrink_at:
            # A node that is not asked for anything any more keeps none either.
            self._shrink_at = wire.used + IDLE_SECONDS / 4
            for each in list(self._wires.values()):
                each.shrink(wire.used)
        return answers

    def _take(self, node: Node) -> Wire | None:
        """A connection to the node, or None where it cannot be reached: then who has what is looked at again."""
        try:
            return self._wires_of(node).take(partial(self._open, node))
        except AllInUse:
            raise
        except ERRORS as exc:
            if is_refusal(exc):
                raise
            self._nodes = ()
            return None

    def _wires_of(self, node: Node) -> Wires:
        return self._wires.get(node) or self._wires.setdefault(node, Wires(self._connections))

    def _open(self, node: Node) -> Wire:
        return open_wire(self._address, *node, timeout=self._address.socket_timeout)

    # -- who has what ------------------------------------------------------------------------------------------------

    def _master_of(self, slot: int) -> Node:
        nodes = self._nodes
        if not nodes:
            nodes = self._look()
        node = nodes[slot]
        if node is None:
            raise redis.ConnectionError(f"slot {slot} is not served")
        return node

    def _look(self) -> tuple[Node | None, ...]:
        """Ask some node for the map of slots: those known last, then those of the URI."""
        wire = self._dialler.dial(self._open_any, worst=self._address.socket_timeout)
        host, port = wire.peer()
        try:
            reply = wire.command(b"CLUSTER", b"SLOTS")
        except BaseException:
            self._wires_of((host, port)).discard(wire)
            raise
        self._wires_of((host, port)).give(wire)
        masters = [
            (first, last, (master[0].decode() if master[0] else host, int(master[1])))
            for first, last, master, *_ in reply
        ]
        nodes: list[Node | None] = [None] * 16384
        for first, last, node in masters:
            nodes[first : last + 1] = [node] * (last + 1 - first)
        self._masters = masters
        for gone in set(self._wires).difference(node for _, _, node in masters):
            self._wires[gone].close()
        self._nodes = tuple(nodes)
        return self._nodes

    def _open_any(self) -> Wire:
        known = dict.fromkeys([*(node for _, _, node in self._masters), *self._address.hosts])
        last: Exception | None = None
        end = time.monotonic() + BOUND / 2
        for node in known:
            try:
                opening = partial(open_wire, self._address, *node, timeout=self._address.socket_timeout / 2)
                return self._wires_of(node).take(opening, fresh=True)
            except ERRORS as exc:
                last = exc
                if time.monotonic() > end:
                    break
        raise redis.ConnectionError("no node of the Cluster answers") from last

    def close(self) -> None:
        for wires in self._wires.values():
            wires.close()

    def forget(self) -> None:
        for wires in self._wires.values():
            wires.forget()


_ELSEWHERE = {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"}


def _refusal(answer: Any) -> tuple[str, str, str]:
    return str(answer).partition(" ") if isinstance(answer, hiredis.ReplyError) else ("", "", "")


def _node(text: str, asked: Node) -> Node:
    """``host:port`` as MOVED and ASK write it; without a host that of the node that was asked."""
    host, _, port = text.rpartition(":")
    return host or asked[0], int(port)
