# SPDX-License-Identifier: Apache-2.0
"""Connections to addresses that were checked: a name is resolved once per connection and never again after the check.

A look-up runs in a thread of its own, as a tenant names the server that answers and that may hang: threads of a pool
would all wait for it. It is a daemon, so that it does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from zaqar.addresses import AddressGuard
from zaqar.errors import AddressRefused

IDLE_SECONDS = 15.0

_AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def connector(guard: AddressGuard, *, tls: ssl.SSLContext | None = None) -> aiohttp.TCPConnector:
    """A pool of connections that only ever lead to where the guard allows. To be called in the running loop.

    How many there are is bounded by whoever sends. ``tls`` None verifies by the system's authorities.
    """

    def open_socket(info: _AddressInfo) -> socket.socket:
        # Every connection passes here, whatever led to it: a host that is an address is never resolved.
        try:
            guard.check(str(info[4][0]))
        except AddressRefused as exc:
            raise ConnectionRefusedError(str(exc)) from exc
        return socket.socket(family=info[0], type=info[1], proto=info[2])

    return aiohttp.TCPConnector(
        ssl=True if tls is None else tls,
        resolver=_CheckedResolver(guard),
        # What was checked a while ago may be another address now; connections that are kept cost no look-up.
        use_dns_cache=False,
        keepalive_timeout=IDLE_SECONDS,
        limit=0,
        socket_factory=open_socket,
    )


class _CheckedResolver(AbstractResolver):
    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name, all checked: AddressRefused where one is not allowed, OSError without any."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        threading.Thread(target=self._look_up, args=(host, loop, found), name="look-up", daemon=True).start()
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await found
        ]

    def _look_up(self, host: str, loop: asyncio.AbstractEventLoop, found: asyncio.Future[list[str]]) -> None:
        answer: list[str] | AddressRefused | OSError
        try:
            answer = self._guard.addresses_of(host)
        except (AddressRefused, OSError) as exc:
            answer = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, found, answer)

    async def close(self) -> None:
        return


def _settle(found: asyncio.Future[list[str]], answer: list[str] | AddressRefused | OSError) -> None:
    if found.done():
        # Whoever asked has given up.
        return
    if isinstance(answer, list):
        found.set_result(answer)
    else:
        found.set_exception(answer)
