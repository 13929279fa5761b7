# SPDX-License-Identifier: Apache-2.0
"""Which hosts a webhook may have: public addresses, and the networks that the operator allows.

A tenant chooses the URL, and the service connects from inside the operator's network. So every address of the URL's
host is checked, when a subscription is made and again at each connect, and the connection goes to an address that was
checked: after the check the name is not resolved again. A host is accepted only in the one plain spelling that all
parsers read alike.

``zaqar.app`` makes the policy. The service of subscriptions checks URLs with it, and the sender of webhooks connects
by it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import aiohappyeyeballs

from zaqar import daemon_threads
from zaqar.errors import AddressRefused, InvalidInput

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str], Sequence[str]]
"""From a name to the addresses it has now; OSError if it has none, or if it cannot be resolved."""

LONGEST_URL = 2048
LOOK_UP_SECONDS = 2.0
"""Longest wait for a name when a subscription is made. At a connect the time-out of the whole attempt counts."""

_LOOK_UPS = 8

MOST_ADDRESSES = 8
"""Most addresses of one name that one attempt tries, so that a hostile name server cannot make it try hundreds."""

_NEXT_ADDRESS_SECONDS = 0.25
"""Time after which the next address is tried in parallel with the one before (RFC 8305, section 5)."""

_TLS_GOODBYE_SECONDS = 1.0

P = TypeVar("P", bound=asyncio.Protocol)

# Everything that may stand in a URL (RFC 3986), so no backslash, blank, control or non-ASCII character.
_URL = re.compile(
    r"(?:trust\+)?https?://"
    r"(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%|^{}\"<>`-]*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

# Globally routable by the registry's word, or by that of the ipaddress module of some Python, and yet not public.
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # the host of a virtual machine at Azure
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4, which has an IPv4 address inside
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# The interface id of a tunnel through IPv4 starts with 0000:5efe or 0200:5efe (RFC 5214).
_ISATAP = 0x5EFE


def look_up(name: str) -> list[str]:
    """The addresses of a name as the system knows them."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        # The codec for international names raises it for a label that is empty or too long.
        raise OSError("no name that can be resolved") from exc
    return [str(entry[4][0]) for entry in found]


class WebhookTargetPolicy:
    """Decides which addresses a webhook may reach. ``resolver`` may block; it is called in threads."""

    def __init__(self, allowed_networks: Iterable[str], *, resolver: Resolver = look_up) -> None:
        self._allowed = tuple(ipaddress.ip_network(network) for network in allowed_networks)
        self._resolver = resolver
        self._look_ups = threading.BoundedSemaphore(_LOOK_UPS)

    def check_url(self, url: str, *, field: str) -> None:
        """Raise InvalidInput unless this is a plain http or https URL whose host is allowed.

        A name that cannot be resolved in a short time passes: it is checked at each connect in any case.
        """
        host = self.check_form(url, field=field)
        try:
            self._check_name(host)
        except AddressRefused as exc:
            raise InvalidInput(field, str(exc)) from exc

    def check_form(self, url: str, *, field: str) -> str:
        """As :meth:`check_url`, without looking a name up. Returns the host of the URL, an IPv6 address in brackets."""
        match = _URL.fullmatch(url) if len(url) <= LONGEST_URL else None
        if match is None:
            raise InvalidInput(
                field, f"must be an http or https URL of at most {LONGEST_URL} ASCII characters with a plain host name"
            )
        port = match["port"]
        if port is not None and not 1 <= int(port) <= 65_535:
            raise InvalidInput(field, "the port must be from 1 to 65535")
        try:
            literal = _literal(match["host"])
            if literal is not None:
                self.check(literal)
        except AddressRefused as exc:
            raise InvalidInput(field, str(exc)) from exc
        return match["host"]

    def check(self, address: str | IPAddress) -> None:
        """Raise AddressRefused unless connections to this address are allowed."""
        ip = _parse(address) if isinstance(address, str) else address
        if not self._is_allowed(ip):
            # The text does not tell the address: a tenant must not learn it from the operator's name servers.
            raise AddressRefused(
                "the host leads to an address that is not public; the operator can allow it by webhook_allowed_networks"
            )

    def addresses_of(self, host: str) -> list[str]:
        """The addresses that a host has now, all of them allowed; connect only to one of them.

        Raises AddressRefused if one of them is not allowed, and OSError if there is none. It may block for long.
        """
        literal = _literal(host)
        if literal is not None:
            self.check(literal)
            return [str(literal)]
        found = list(dict.fromkeys(self._resolver(host)))
        if not found:
            raise OSError(f"{host} has no address")
        for address in found:
            self.check(address)
        return found

    def _check_name(self, host: str) -> None:
        if _literal(host) is not None:
            return
        # A tenant chooses the name server of its names, so a look-up may hang. It goes on in a thread that is left
        # alone after LOOK_UP_SECONDS. If many such threads are under way, names are not resolved here.
        if not self._look_ups.acquire(blocking=False):
            return
        refused: list[AddressRefused] = []
        thread = threading.Thread(target=self._look_up, args=(host, refused), name="look-up", daemon=True)
        thread.start()
        thread.join(LOOK_UP_SECONDS)
        if refused:
            raise refused[0]

    def _look_up(self, host: str, refused: list[AddressRefused]) -> None:
        try:
            self.addresses_of(host)
        except AddressRefused as exc:
            refused.append(exc)
        except OSError:
            # It cannot be resolved now, which is no reason to refuse a subscriber that is not up yet.
            return
        finally:
            self._look_ups.release()

    def _is_allowed(self, ip: IPAddress) -> bool:
        if any(ip in network for network in self._allowed):
            return True
        inside = _translated(ip)
        return _is_public(ip) if inside is None else self._is_allowed(inside)


def _literal(host: str) -> IPAddress | None:
    """The address, if the host is a literal one, or None for a name. Raises AddressRefused for everything else."""
    if host.startswith("[") and host.endswith("]"):
        return _parse(host[1:-1])
    if ":" in host:
        return _parse(host)
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Some parsers take 127.1, 0x7f000001, 2130706433 and 0177.0.0.1 for addresses, each in a way of its own.
        ip = _parse(host)
        if str(ip) != host:
            raise AddressRefused("an IPv4 address must be written as four decimal numbers")
        return ip
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused("the host is neither a name nor an address; write international names as xn--...")
    return None


def _parse(text: str) -> IPAddress:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as exc:
        raise AddressRefused(
            "the host looks like an address and is none; an IPv4 address must be written as four decimal numbers"
        ) from exc
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        raise AddressRefused("an address must not have a zone")
    return ip


def _translated(ip: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a connection to an IPv6 address ends at."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip.ipv4_mapped


def _is_public(ip: IPAddress) -> bool:
    return (
        ip.is_global
        and not (ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_private or ip.is_unspecified)
        and (ip.version == 4 or (ip in _UNICAST and (int(ip) >> 32) & 0xFDFF_FFFF != _ISATAP))
        and not any(ip in network for network in _NOT_PUBLIC)
    )


async def connect(
    target_policy: WebhookTargetPolicy,
    host: str,
    port: int,
    make_protocol: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
) -> P:
    """Connect to one of the addresses that ``host``, a name or an address, has now; return the connection's protocol.

    ``tls`` None is plain TCP. Raises AddressRefused if an address is not allowed; NameNotFound; and ssl.SSLError or
    OSError if no connection can be made. The caller bounds the time.
    """
    try:
        found = await daemon_threads.run(lambda: target_policy.addresses_of(host), name="look-up")
    except OSError as exc:
        raise NameNotFound from exc

    def open_socket(info: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        # The last check before a connection is made, on every path.
        try:
            target_policy.check(str(info[4][0]))
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
    """The host has no address, or it cannot be resolved."""


def _address_info(address: str, port: int) -> aiohappyeyeballs.AddrInfoType:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
