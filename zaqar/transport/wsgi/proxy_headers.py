# SPDX-License-Identifier: Apache-2.0
"""The URL of the service as clients see it, from the path at which it is mounted and from the headers of a proxy.

A WSGI server passes the mount path in ``SCRIPT_NAME``. With ``[oslo_middleware] enable_proxy_headers_parsing`` the
headers of a reverse proxy count as well, by the rules of oslo.middleware.
:class:`~zaqar.transport.wsgi.requests.RequestChecks` calls these functions.
"""

from __future__ import annotations

import functools
import re
from typing import Any
from urllib.parse import quote, unquote

from zaqar.errors import InvalidInput

_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*/?")
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

_COLLECTIONS = ("queues", "topics", "pools", "flavors")


def believe_proxy(env: dict[str, Any]) -> None:
    """Copy the scheme, host, client address and prefix from the headers of the proxy into the WSGI environment.

    ``Forwarded`` (RFC 7239) takes precedence over ``X-Forwarded-Proto``, ``-Host`` and ``-For``. Of several proxies the
    first one counts, to which the client has connected. ``X-Forwarded-Prefix`` is put before ``SCRIPT_NAME``. Raises
    InvalidInput, which names the header, for a value that cannot be part of a URL.
    """
    forwarded = env.get("HTTP_FORWARDED")
    said = _first_of(forwarded) if forwarded else {}
    for parameter, variable in (("proto", "wsgi.url_scheme"), ("host", "HTTP_HOST"), ("for", "REMOTE_ADDR")):
        header = "Forwarded" if forwarded else f"X-Forwarded-{parameter.capitalize()}"
        if not forwarded:
            said[parameter] = env.get(f"HTTP_X_FORWARDED_{parameter.upper()}", "").partition(",")[0].strip()
        value = said.get(parameter, "")
        if parameter == "proto" and value:
            value = value.lower()
            if value not in ("http", "https"):
                raise InvalidInput(header, "must name the protocol http or https")
        elif parameter == "host" and value and _HOST.fullmatch(value) is None:
            raise InvalidInput(header, "must name a host, with or without a port")
        if value:
            env[variable] = value
    prefix = env.get("HTTP_X_FORWARDED_PREFIX")
    if prefix:
        if _PREFIX.fullmatch(prefix) is None:
            raise InvalidInput("X-Forwarded-Prefix", "must be an absolute path without empty parts")
        # SCRIPT_NAME is not percent-encoded, and holds bytes as Latin-1 (PEP 3333).
        env["SCRIPT_NAME"] = unquote(prefix, encoding="latin-1").rstrip("/") + env.get("SCRIPT_NAME", "")


def _first_of(forwarded: str) -> dict[str, str]:
    """The parameters of the first proxy, their names in lower case and their values without quotes."""
    pairs = (part.partition("=") for part in forwarded.partition(",")[0].split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


# The cache is bounded, because a client may be able to choose the prefix.
@functools.lru_cache(64)
def link_prefix(mount_path: str) -> str:
    """The mount path for the beginning of links: percent-encoded, without a slash at its end."""
    return quote(mount_path, safe="/:@!$&'()*+,;=~").rstrip("/")


def undo_repeated_prefix(path: str, mount_path: str) -> str:
    """The path below the mount path, also if the client has repeated the mount path in it.

    python-zaqarclient takes the characters ``/``, ``v`` and ``2`` off the beginning of a ``next`` link, and puts its
    endpoint and ``/v2/`` before the rest. So of ``/messaging/v2/queues`` it makes
    ``/messaging/v2/messaging/v2/queues``, which is ``/v2/messaging/v2/queues`` here. No path of the API is like that:
    below a queue or any other resource there is no collection of queues, topics, pools or flavors.
    """
    repeated = "/v2/" + (mount_path.rstrip("/") + "/v2/").lstrip("/v2")
    rest = path.removeprefix(repeated)
    if rest != path and rest.partition("/")[0] in _COLLECTIONS:
        return "/v2/" + rest
    return path
