# SPDX-License-Identifier: Apache-2.0
"""Commands for a Cluster: each slot has a master; slots move between masters, and masters are replaced."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import redis

from zaqar.storage.redis.client.connection import (
    CLIENT_ERRORS,
    CONNECTION_LOST,
    Connection,
    is_refusal,
    open_connection,
    pack,
)
from zaqar.storage.redis.client.pool import IDLE_SECONDS, ConnectionPool, PoolExhausted
from zaqar.storage.redis.client.server import CONNECT_SECONDS, Connector
from zaqar.storage.redis.client.uri import RedisAddress
from zaqar.storage.redis.keys import SLOTS

Node = tuple[str, int]

_REDIRECT_SECONDS = 2.0
"""How long an operation is tried again that a node refuses because the slot moves or has no master yet."""

_PAUSE = 0.05
_PIPELINE_COMMANDS = 500
_ASKING = pack((b"ASKING",))
_NOT_RUN_ERRORS = {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"}
"""A node that answers so has not run the command."""


class ClusterRouter:
    """Sends commands to the master of their slot. A command that a node refused has not run, so it is sent again."""

    is_cluster = True

    def __init__(self, address: RedisAddress, connector: Connector, *, connections: int) -> None:
        self._address = address
        self._connector = connector
        self._connections = connections
        self._pools: dict[Node, ConnectionPool] = {}
        self._shrink_at = 0.0
        self._masters: list[tuple[int, int, Node]] = []
        """First slot, last slot and their master. The list is replaced as a whole."""
        self._nodes: tuple[Node | None, ...] = ()
        """The master of each slot; empty if it has to be looked up again. Replaced as a whole, so it needs no lock."""

    def exchange(self, data: bytes, replies: int, slot: int = 0, *, retry: bool) -> list[Any]:
        """Send packed commands to the master of ``slot`` and return their replies.

        If the connection ends before the replies are there, the server may have run the commands. So they are sent
        again only if ``retry`` is set. Commands that a node refused have not run, and are always sent again.
        """
        return self._exchange(data, replies, slot, retry=retry, end=time.monotonic() + _REDIRECT_SECONDS)

    def _exchange(self, data: bytes, replies: int, slot: int, *, retry: bool, end: float) -> list[Any]:
        node = self._master_of(slot)
        asking = False
        while True:
            connection = self._take(node)
            if connection is None:
                # Nothing was sent, so a second node may be tried: the map that was read anew may name a successor.
                tried, node, asking = node, self._master_of(slot), False
                connection = self._take(node) if node != tried else None
                if connection is None:
                    raise redis.ConnectionError(f"{node[0]}:{node[1]}, which has slot {slot}, does not answer")
            try:
                answers = self._exchange_on(node, connection, data, replies, asking=asking)
            except CONNECTION_LOST:
                self._nodes = ()
                if not retry:
                    raise
                retry = False
                node, asking = self._master_of(slot), False
                continue
            except CLIENT_ERRORS:
                self._nodes = ()
                raise
            kind, _, rest = _refusal(answers[0])
            if kind not in _NOT_RUN_ERRORS or time.monotonic() > end:
                return answers
            asking = kind == "ASK"
            if kind == "MOVED":
                self._nodes = ()
                node = self._master_of(slot)
            elif kind == "ASK":
                # The slot is on its way. Only this command goes to the new node; the map is still right.
                node = _node(rest.partition(" ")[2], node)
            else:
                time.sleep(_PAUSE)
                self._nodes = ()
                node = self._master_of(slot)

    def exchange_many(self, requests: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send one packed command for each of many slots, in one pipeline for each node; they may be sent again.

        Commands that a pipeline did not answer, or that its node refused, are sent again one by one.
        """
        answers: dict[int, Any] = {}
        # One end for all of them, or each slot that nobody serves would take that long.
        end = time.monotonic() + _REDIRECT_SECONDS
        by_node: dict[Node, list[int]] = {}
        for index, (slot, _) in enumerate(requests):
            by_node.setdefault(self._master_of(slot), []).append(index)
        for node, indexes in by_node.items():
            for start in range(0, len(indexes), _PIPELINE_COMMANDS):
                some = indexes[start : start + _PIPELINE_COMMANDS]
                connection = self._take(node)
                if connection is not None:
                    data = b"".join(requests[index][1] for index in some)
                    with suppress(*CONNECTION_LOST):  # the loop below asks for the missing answers one by one
                        answers.update(zip(some, self._exchange_on(node, connection, data, len(some)), strict=True))
        return [
            answers[index]
            if index in answers and _refusal(answers[index])[0] not in _NOT_RUN_ERRORS
            else self._exchange(data, 1, slot, retry=True, end=end)[0]
            for index, (slot, data) in enumerate(requests)
        ]

    def exchange_with_each_master(self, data: bytes, replies: int) -> list[list[Any]]:
        """The replies of every master."""
        self._master_of(0)
        nodes = dict.fromkeys(node for _, _, node in self._masters)
        return [
            self._exchange_on(node, self._pool_of(node).take(partial(self._open, node)), data, replies)
            for node in nodes
        ]

    def open_extra_connection(self) -> Connection:
        """Open a connection to any master, not of the pool, for a subscription. Processes spread over the masters."""
        if not self._nodes:
            self._load_slots()
        nodes = [*{node for _, _, node in self._masters}]
        random.shuffle(nodes)
        last: Exception | None = None
        end = time.monotonic() + CONNECT_SECONDS / 2
        for node in nodes:
            try:
                return self._open(node)
            except CLIENT_ERRORS as exc:
                self._nodes = ()
                last = exc
                if is_refusal(exc) or time.monotonic() > end:
                    break
        raise redis.ConnectionError("no master of the Cluster answers") from last

    def leads_to_master(self, connection: Connection) -> bool:
        """Whether the map of slots names the server of this connection as a master."""
        return any(node == connection.peer() for _, _, node in self._masters)

    def _exchange_on(
        self, node: Node, connection: Connection, data: bytes, replies: int, *, asking: bool = False
    ) -> list[Any]:
        pool = self._pools[node]
        try:
            answers = (
                connection.exchange(_ASKING + data, replies + 1)[1:] if asking else connection.exchange(data, replies)
            )
        except BaseException as exc:  # a greenlet may be killed while it waits
            pool.discard(connection)
            if isinstance(exc, CLIENT_ERRORS):
                pool.close()
            raise
        pool.give(connection)
        if connection.used > self._shrink_at:
            # Shrink all pools here, because a node that gets no commands any more would keep its connections.
            self._shrink_at = connection.used + IDLE_SECONDS / 4
            for each in list(self._pools.values()):
                each.shrink(connection.used)
        return answers

    def _take(self, node: Node) -> Connection | None:
        """A connection to the node. None if it cannot be reached; then the map of slots is read anew."""
        try:
            return self._pool_of(node).take(partial(self._open, node))
        except PoolExhausted:
            raise
        except CLIENT_ERRORS as exc:
            if is_refusal(exc):
                raise
            self._nodes = ()
            return None

    def _pool_of(self, node: Node) -> ConnectionPool:
        return self._pools.get(node) or self._pools.setdefault(node, ConnectionPool(self._connections))

    def _open(self, node: Node) -> Connection:
        return open_connection(self._address, *node, timeout=self._address.socket_timeout)

    # -- the map of slots --------------------------------------------------------------------------------------------

    def _master_of(self, slot: int) -> Node:
        nodes = self._nodes
        if not nodes:
            nodes = self._load_slots()
        node = nodes[slot]
        if node is None:
            raise redis.ConnectionError(f"slot {slot} is not served")
        return node

    def _load_slots(self) -> tuple[Node | None, ...]:
        """Ask any node for the map of slots: first the masters that are known, then the nodes of the URI.

        Several threads may do so at once: each replaces the whole map with one that was right a moment ago.
        """
        connection = self._connector.connect(self._open_any, worst=self._address.socket_timeout)
        host, port = connection.peer()
        try:
            reply = connection.command(b"CLUSTER", b"SLOTS")
        except BaseException:
            self._pool_of((host, port)).discard(connection)
            raise
        self._pool_of((host, port)).give(connection)
        masters = [
            (first, last, (master[0].decode() if master[0] else host, int(master[1])))
            for first, last, master, *_ in reply
        ]
        nodes: list[Node | None] = [None] * SLOTS
        for first, last, node in masters:
            nodes[first : last + 1] = [node] * (last + 1 - first)
        self._masters = masters
        for gone in set(self._pools).difference(node for _, _, node in masters):
            self._pools[gone].close()
        self._nodes = tuple(nodes)
        return self._nodes

    def _open_any(self) -> Connection:
        known = dict.fromkeys([*(node for _, _, node in self._masters), *self._address.hosts])
        last: Exception | None = None
        end = time.monotonic() + CONNECT_SECONDS / 2
        for node in known:
            try:
                opening = partial(open_connection, self._address, *node, timeout=self._address.socket_timeout / 2)
                return self._pool_of(node).take(opening, fresh=True)
            except CLIENT_ERRORS as exc:
                last = exc
                if time.monotonic() > end:
                    break
        raise redis.ConnectionError("no node of the Cluster answers") from last

    def connections(self) -> tuple[int, int, int]:
        """How many connections are in use, how many are idle, and how many there may be: of all nodes together."""
        counts = [pool.count() for pool in list(self._pools.values())]
        masters = {node for _, _, node in self._masters}
        most = self._connections * max(1, len(masters))
        return sum(used for used, _ in counts), sum(idle for _, idle in counts), most

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def forget(self) -> None:
        for pool in self._pools.values():
            pool.forget()


def _refusal(answer: Any) -> tuple[str, str, str]:
    return str(answer).partition(" ") if isinstance(answer, hiredis.ReplyError) else ("", "", "")


def _node(text: str, asked: Node) -> Node:
    """Parse the ``host:port`` of MOVED and ASK. An empty host stands for that of the node that was asked."""
    host, _, port = text.rpartition(":")
    return host or asked[0], int(port)
