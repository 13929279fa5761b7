# SPDX-License-Identifier: Apache-2.0
"""URIs of stores: masks their passwords, compares their schemes, and checks whether a host name can be looked up.

The masking hides too much rather than too little. The service, the drivers and the log use it.
"""

import re
from urllib.parse import unquote, unquote_plus

MASK = "***"

_SECRET = re.compile(r"pass|pwd|secret|token|authmechanismproperties", re.IGNORECASE)


def mask(uri: str) -> str:
    """Return the URI with :data:`MASK` in place of each password, in its user part and in its query."""
    return _split(uri)[0]


def lower_scheme(uri: str) -> str:
    """Return the URI with its scheme in lower case, because schemes ignore case (RFC 3986, section 3.1)."""
    scheme, separator, rest = uri.partition("://")
    return scheme.lower() + separator + rest


def reveals(text: str, uri: str) -> bool:
    """Whether a text contains a password of the URI, percent-encoded or not."""
    return any(form in text for secret in _split(uri)[1] for form in (secret, unquote(secret), unquote_plus(secret)))


def is_host(text: str) -> bool:
    """Whether a text can be looked up as a host. If not, such as a label of 64 bytes, a look-up raises UnicodeError."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return "\0" not in text


def _split(uri: str) -> tuple[str, list[str]]:
    """Return the masked URI and the secrets that were masked."""
    secrets: list[str] = []
    scheme, separator, rest = uri.rpartition("://") if uri.count("://") == 1 else ("", "", uri)
    # A password that is not percent-encoded may hold '/', '?' and '@'. It ends at the last '@'.
    credentials, at, place = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    if at and colon and password:
        secrets.append(password)
        credentials = f"{user}:{MASK}"
    head, mark, query = re.match(r"([^?#]*)([?#]?)(.*)", credentials + at + place, re.DOTALL).groups()  # type: ignore[union-attr]
    parameters = [_mask_parameter(parameter, secrets) for parameter in query.split("&")]
    return scheme + separator + head + mark + "&".join(parameters), secrets


def _mask_parameter(parameter: str, secrets: list[str]) -> str:
    name, equals, value = parameter.partition("=")
    if not value or _SECRET.search(unquote(parameter)) is None:
        return parameter
    secrets.append(value)
    return f"{name}{equals}{MASK}"
