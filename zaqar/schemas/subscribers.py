# SPDX-License-Identifier: Apache-2.0
"""The URI of a subscriber: where notifications go to."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from zaqar.errors import InvalidInput
from zaqar.schemas import mailboxes

MOST_CHARACTERS = 2000

WEBHOOK_SCHEMES = frozenset({"http", "https", "trust+http", "trust+https"})
"""Those that a request is made to, which is signed with the secret of the subscription."""

CONNECTION_SCHEME = "websocket"
"""The scheme of connections as subscribers: ``websocket:<id of node>.<id of connection>``. No request may name one."""

_AUTHORITY = re.compile(r"//[^/?#]*")
_FIELD = "subscriber"
_PRINTABLE = re.compile(r"[!-~]+")


def scheme_of(subscriber: str) -> str:
    """The scheme in lower case, such as ``trust+https``."""
    return subscriber.partition(":")[0].lower()


def check_subscriber(subscriber: object, *, types: Collection[str]) -> str:
    """The subscriber as it is kept, :func:`normal`; InvalidInput unless it is a whole URI of one of these schemes."""
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
    """The URI with its scheme and its host in lower case (RFC 3986, section 6.2.2.1), so that no subscriber is two.

    Of a mail address this is the domain; what is before the ``@`` may depend on its case. ``mailto://``, as the
    documentation of Aodh has it, is taken for ``mailto:``.
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
    # The digits of percent-encoded bytes are in upper case (RFC 3986, section 6.2.2.1).
    return re.sub("%[0-9a-f]{2}", lambda match: match[0].upper(), host.lower())


def connection_subscriber(node_id: str, connection: str) -> str:
    """The subscriber for a connection of a node. Both ids are hexadecimal."""
    return f"{CONNECTION_SCHEME}:{node_id}.{connection}"


def connection_of(subscriber: str) -> tuple[str, str]:
    """The ids of the node and of the connection in a subscriber of ``CONNECTION_SCHEME``."""
    node_id, _, connection = subscriber.partition(":")[2].partition(".")
    return node_id, connection


def is_of_node(subscriber: str, node_id: str) -> bool:
    """Whether the subscriber is a connection of this node."""
    return scheme_of(subscriber) == CONNECTION_SCHEME and connection_of(subscriber)[0] == node_id


def shown_subscriber(subscriber: str) -> str:
    """The subscriber as clients see it. That of a connection is shown without the id of its node."""
    if scheme_of(subscriber) != CONNECTION_SCHEME:
        return subscriber
    return f"{CONNECTION_SCHEME}:{connection_of(subscriber)[1]}"


def takes_token(subscriber: str) -> bool:
    """Whether its requests carry a token of a trust in Keystone: ``trust+http`` and ``trust+https``."""
    return scheme_of(subscriber).startswith("trust+")


def url_of(subscriber: str) -> str:
    """The URL that a webhook's requests go to."""
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
        # It would be shown to everybody who may list the subscriptions, and is an old trick to hide the host.
        raise InvalidInput(_FIELD, "must hold no user and password; send an Authorization header by post_headers")
