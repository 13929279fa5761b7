# SPDX-License-Identifier: Apache-2.0
"""Connections to addresses that were checked: after the check a name is not resolved again."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from zaqar.addresses import AddressGuard
from zaqar.errors import AddressRefused
from zaqar.notification import threads

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
            raise PermissionError(errno.EACCES, str(exc)) from exc
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
        found = await threads.call(lambda: self._guard.addresses_of(host), name="look-up")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        return
