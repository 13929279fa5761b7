# SPDX-License-Identifier: Apache-2.0
"""Decides which web pages may open a connection. Browsers let any page try, and name its origin in a header."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class OriginPolicy:
    """Admits requests without ``Origin``, pages of the server's own host and port, and pages of ``allowed`` origins.

    ``allowed`` is ``[cors] allowed_origin``; ``*`` admits every page. This does not stop DNS rebinding: a page whose
    host name resolves to the address of the server has the server's host and port.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        # Browsers send scheme and host in lower case (RFC 6454, section 4); operators may type them otherwise.
        self._allowed = frozenset(origin.lower() for origin in allowed)

    def admits(self, origins: Iterable[str], host: str | None) -> bool:
        """Whether a request with these values of ``Origin``, and this value of ``Host``, may open a connection."""
        values = [origin.strip().lower() for origin in origins]
        if not values:
            return True
        if len(values) > 1:
            return False
        return "*" in self._allowed or values[0] in self._allowed or _is_same(values[0], host)


def _is_same(origin: str, host: str | None) -> bool:
    """Whether a page of this origin was loaded from the host and port to which it connects.

    The scheme is not compared, because a proxy in front of the server may terminate TLS. ``Host`` has no port if the
    client uses the default port of its scheme, which is the scheme of the origin.
    """
    if host is None:
        return False
    try:
        page = urlsplit(origin)
        server = urlsplit(f"//{host.strip().lower()}")
        default = _PORTS.get(page.scheme)
        same_port = (page.port or default) == (server.port or default)
    except ValueError:
        return False
    return default is not None and page.hostname is not None and page.hostname == server.hostname and same_port
