# SPDX-License-Identifier: Apache-2.0
"""Checks the headers that a subscription adds to its webhook requests, at its creation and again before sending.

The service makes these requests from inside the operator's network. Some receivers trust headers that name the caller
or the origin of a request without proof: services behind an authenticating proxy, this service itself, metadata
services. A tenant must not set such headers. A tenant may set headers that carry their own proof, such as
``Authorization`` and ``X-Auth-Token``.

A request to a ``trust+http`` subscriber has a token that names the caller and that the receiver validates. For such a
subscriber a tenant must not set the token, but may set two further headers: ``Client-ID``, and ``X-Project-ID`` with
the project of the subscription, which is also the project of the token.
"""

import re
from collections.abc import Mapping

from zaqar.errors import InvalidInput

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE = re.compile(r"[\t -~]{0,4096}")
_NOT_ALPHANUMERIC = re.compile(r"[^0-9a-z]")

_REFUSED = frozenset(
    {
        # Framing, routing and hop-by-hop fields (RFC 9110, section 7.6.1; RFC 9112, section 6).
        *("host", "content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive", "te"),
        *("trailer", "trailers", "upgrade", "expect", "http2-settings", "via", "forwarded", "max-forwards"),
        # Headers that override the method or the path.
        *("x-http-method", "x-http-method-override", "x-method-override", "x-original-method"),
        *("x-original-url", "x-original-uri", "x-rewrite-url", "x-original-host", "x-host"),
        # The origin of a request, as set by proxies.
        *("x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "x-remote-ip", "x-remote-addr"),
        *("client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip"),
        # The result of keystonemiddleware for a valid token, and older spellings.
        *("x-identity-status", "x-project", "x-project-id", "x-user", "x-role", "x-roles", "x-tenant"),
        *("x-is-admin-project", "openstack-system-scope", "x-subject-token"),
        # The caller, as set by other authenticating proxies.
        *("remote-user", "x-remote-user", "x-webauth-user", "x-authenticated-user", "x-authenticated-userid"),
        # This service: the Client-ID (see below for the prefix of pre-signed URLs).
        "client-id",
        # Metadata services of Google, Azure and OpenStack (nova, neutron, and proxies in front of them).
        *("metadata", "metadata-flavor", "x-google-metadata-request", "x-metadata-token"),
        *("x-instance-id", "x-instance-id-signature", "x-metadata-provider", "x-metadata-provider-signature"),
        *("x-neutron-network-id", "x-neutron-router-id", "x-ovn-network-id"),
    }
)
_REFUSED_PREFIXES = (
    "proxy-",
    "x-forwarded",
    "x-envoy-",
    "x-auth-request-",
    "x-amzn-oidc-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-consumer-",
    "x-credential-",
    "x-ssl-",
    "ssl-client-",
    "x-client-cert",
    "oidc-",
    "shib-",
    "mellon-",
    "x-project-",
    "x-user-",
    "x-tenant-",
    "x-domain-",
    "x-service-",
    "url-",
    "x-aws-ec2-metadata-",
    # The service sends its signatures in these.
    "webhook-",
)


_BESIDE_A_TOKEN = frozenset({"client-id", "x-project-id"})
"""Refused headers that are allowed if the service adds a token."""


def check(headers: Mapping[str, str], *, field: str, with_token: bool = False) -> None:
    """Raise InvalidInput, about the header below ``field``, unless all of these headers may be sent.

    ``with_token``: the service adds a token that names the caller.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        place, folded = f"{field}.{name[:64]!a}", fold(name)
        if _NAME.fullmatch(name) is None:
            raise InvalidInput(place, "is no name of a header")
        is_refused = folded in _REFUSED or folded.startswith(_REFUSED_PREFIXES)
        if is_refused and not (with_token and folded in _BESIDE_A_TOKEN):
            raise InvalidInput(
                place,
                "is reserved: the service sets it, or it controls the connection or names a caller or an origin",
            )
        if folded in seen:
            raise InvalidInput(place, "is given twice, in two spellings")
        if _VALUE.fullmatch(value) is None or value != value.strip():
            raise InvalidInput(place, "must have a value of at most 4096 printable ASCII characters")
        seen.add(folded)


def fold(name: str) -> str:
    """Return one spelling for all names that some receiver treats as the same header.

    CGI and WSGI replace ``-`` by ``_``; older servers replace every character that is no letter or digit.
    """
    return _NOT_ALPHANUMERIC.sub("-", name.lower())
