# SPDX-License-Identifier: Apache-2.0
"""Which web pages may open a connection: browsers let any page try, and say which one it is in the header Origin."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class OriginPolicy:
    """Admits clients that are no browsers, pages of the server's own host and port, and those of ``allowed``.

    ``allowed`` is ``[cors] allowed_origin``; ``*`` admits every page.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        # Browsers send scheme and host in lower case (RFC 6454, section 4), whatever an operator typed.
        self._allowed = frozenset(origin.lower() for origin in allowed)

    def admits(self, origins: Iterable[str], host: str | None) -> bool:
        """Whether a request with these values of the header Origin, and this one of Host, may open a connection."""
        values = [origin.strip().lower() for origin in origins]
        if not values:
            return True
        if len(values) > 1:
            return False
        return "*" in self._allowed or values[0] in self._allowed or _is_same(values[0], host)


def _is_same(origin: str, host: str | None) -> bool:
    """Whether a page of this origin was loaded from the host and port to which it connects.

    The scheme is not compared, since a proxy before the server may be the end of TLS. ``Host`` has no port if it is the
    default one of the scheme that the client sees, which is that of the origin.
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
