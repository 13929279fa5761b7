# SPDX-License-Identifier: Apache-2.0
"""Connections to addresses that were checked: after the check a name is not resolved again."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

import aiohappyeyeballs

from zaqar.addresses import AddressGuard
from zaqar.errors import AddressRefused
from zaqar.notification import threads

MOST_ADDRESSES = 8
"""Addresses of one name that one attempt tries, so that nobody's name server makes it knock at hundreds of doors."""

_NEXT_ADDRESS_SECONDS = 0.25
"""How long one address is waited for before the next one is tried beside it (RFC 8305, section 5)."""

_TLS_GOODBYE_SECONDS = 1.0

P = TypeVar("P", bound=asyncio.Protocol)


async def connect(
    guard: AddressGuard, host: str, port: int, make_protocol: Callable[[], P], *, tls: ssl.SSLContext | None
) -> P:
    """The protocol of a new connection to one of the addresses that ``host``, a name or an address, stands for now.

    ``tls`` None is plain TCP. Raises AddressRefused where an address is not allowed; NameNotFound; ssl.SSLError and
    OSError where no connection can be made. Time is bounded by the caller.
    """
    try:
        found = await threads.call(lambda: guard.addresses_of(host), name="look-up")
    except OSError as exc:
        raise NameNotFound from exc

    def open_socket(info: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        # The last moment before a connection is made, whatever led here.
        try:
            guard.check(str(info[4][0]))
        except AddressRefused as exc:
            raise PermissionError(errno.EACCES, str(exc)) from exc
        return socket.socket(family=info[0], type=info[1], proto=info[2])

    sock = await aiohappyeyeballs.start_connection(
        [_address_info(address, port) for address in found[:MOST_ADDRESSES]],
        happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
        socket_factory=open_socket,
    )
    _, protocol = await asyncio.get_running_loop().create_connection(
        make_protocol,
        sock=sock,
        ssl=tls,
        # A final dot is part of a name in DNS and not in certificates.
        server_hostname=host.rstrip(".") if tls else None,
        ssl_shutdown_timeout=_TLS_GOODBYE_SECONDS if tls else None,
    )
    return protocol


class NameNotFound(Exception):
    """The host has no address, or nobody can say which."""


def _address_info(address: str, port: int) -> aiohappyeyeballs.AddrInfoType:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
