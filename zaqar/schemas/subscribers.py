# SPDX-License-Identifier: Apache-2.0
"""Checks and reads the URI of a subscriber, to which notifications are sent."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from zaqar.errors import InvalidInput
from zaqar.schemas import mailboxes

MOST_CHARACTERS = 2000

WEBHOOK_SCHEMES = frozenset({"http", "https", "trust+http", "trust+https"})
"""Schemes of webhooks: the service sends HTTP requests, signed with the secret of the subscription."""

CONNECTION_SCHEME = "websocket"
"""The scheme of connections: ``websocket:<id of node>.<id of connection>``. A request must not contain it."""

_AUTHORITY = re.compile(r"//[^/?#]*")
_FIELD = "subscriber"
_PRINTABLE = re.compile(r"[!-~]+")


def scheme_of(subscriber: str) -> str:
    """Return the scheme in lower case, such as ``trust+https``."""
    return subscriber.partition(":")[0].lower()


def check_subscriber(subscriber: object, *, types: Collection[str]) -> str:
    """Check a subscriber and return its :func:`normal` form. Raises InvalidInput unless its scheme is in ``types``."""
    if not isinstance(subscriber, str):
        raise InvalidInput(_FIELD, "must be a string, a URI")
    if not 1 <= len(subscriber) <= MOST_CHARACTERS:
        raise InvalidInput(_FIELD, f"must have 1 to {MOST_CHARACTERS} characters")
    if _PRINTABLE.fullmatch(subscriber) is None:
        raise InvalidInput(_FIELD, "must be a URI in printable ASCII characters without spaces")
    subscriber = normal(subscriber)
    scheme, colon, rest = subscriber.partition(":")
    if scheme == CONNECTION_SCHEME:
        # Refuse it even if the operator lists it in [transport] subscriber_types.
        raise InvalidInput(_FIELD, f"must not begin with {CONNECTION_SCHEME}:, which stands for a connection")
    if not colon or scheme.lower() not in types:
        raise InvalidInput(_FIELD, f"must begin with one of {', '.join(f'{each}:' for each in types)}")
    if scheme.lower() == "mailto":
        mailboxes.parse_mailto(subscriber, field=_FIELD)
    elif scheme.lower() in WEBHOOK_SCHEMES:
        _check_url(subscriber)
    elif not rest:
        raise InvalidInput(_FIELD, "must say more than a scheme")
    return subscriber


def normal(subscriber: str) -> str:
    """Return the URI with scheme and host in lower case (RFC 3986, section 6.2.2.1), one form for each subscriber.

    In a mail address only the domain is changed, because the part before the ``@`` may depend on case. ``mailto://``,
    as in the documentation of Aodh, is accepted and becomes ``mailto:``.
    """
    scheme, colon, rest = subscriber.partition(":")
    scheme = scheme.lower()
    if scheme == "mailto":
        address, mark, fields = rest.removeprefix("//").partition("?")
        user, at, domain = address.rpartition("@")
        rest = f"{user}{at}{_lower(domain) if at else domain}{mark}{fields}"
    elif scheme in WEBHOOK_SCHEMES and (authority := _AUTHORITY.match(rest)):
        rest = _lower(authority[0]) + rest[authority.end() :]
    return scheme + colon + rest


def _lower(host: str) -> str:
    # Percent-encoded bytes are normalised to upper case (RFC 3986, section 6.2.2.1).
    return re.sub("%[0-9a-f]{2}", lambda match: match[0].upper(), host.lower())


def connection_subscriber(node_id: str, connection: str) -> str:
    """Make the subscriber of a connection. Both ids are hexadecimal."""
    return f"{CONNECTION_SCHEME}:{node_id}.{connection}"


def connection_of(subscriber: str) -> tuple[str, str]:
    """Return the ids of the node and of the connection in a subscriber of ``CONNECTION_SCHEME``."""
    node_id, _, connection = subscriber.partition(":")[2].partition(".")
    return node_id, connection


def is_of_node(subscriber: str, node_id: str) -> bool:
    """Whether the subscriber is a connection of the node."""
    return scheme_of(subscriber) == CONNECTION_SCHEME and connection_of(subscriber)[0] == node_id


def shown_subscriber(subscriber: str) -> str:
    """Return the subscriber for clients. A connection is shown without the id of its node."""
    if scheme_of(subscriber) != CONNECTION_SCHEME:
        return subscriber
    return f"{CONNECTION_SCHEME}:{connection_of(subscriber)[1]}"


def takes_token(subscriber: str) -> bool:
    """Whether its requests have a token of a Keystone trust: ``trust+http`` and ``trust+https``."""
    return scheme_of(subscriber).startswith("trust+")


def url_of(subscriber: str) -> str:
    """Return the URL of a webhook."""
    return subscriber[len("trust+") :] if takes_token(subscriber) else subscriber


def _check_url(subscriber: str) -> None:
    if "\\" in subscriber:
        raise InvalidInput(_FIELD, "must not hold a backslash")
    try:
        parts = urlsplit(url_of(subscriber))
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidInput(_FIELD, "must be a URL with a host, and a port that is a number up to 65535") from exc
    if not host or port == 0:
        raise InvalidInput(_FIELD, "must be a URL with a host")
    if "@" in parts.netloc:
        # Every caller that may list the subscriptions would see the password. And a user part can disguise the host.
        raise InvalidInput(_FIELD, "must hold no user and password; send an Authorization header by post_headers")
