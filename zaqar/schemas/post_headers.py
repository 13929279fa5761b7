# SPDX-License-Identifier: Apache-2.0
"""The headers that a subscriber may add to the requests of a webhook: checked at subscribe and again before sending.

The service makes these requests from inside the operator's network. So a tenant must not set a header that says who
asks or from where and that a receiver believes without proof: a service behind an authenticating proxy, this service
itself, a metadata service. Headers that carry a proof of their own, such as ``Authorization`` and ``X-Auth-Token``, are
the tenant's to set.

A request to a ``trust+http`` subscriber carries a token, which such services authenticate, and which says who asks. So
there the token is not the tenant's to set, and two of the other headers are: ``Client-ID``, and ``X-Project-ID`` with
the project of the subscription, which is the one of the token.
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
        # Another method or path than the one that was asked for.
        *("x-http-method", "x-http-method-override", "x-method-override", "x-original-method"),
        *("x-original-url", "x-original-uri", "x-rewrite-url", "x-original-host", "x-host"),
        # Where a request came from, as proxies say it.
        *("x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "x-remote-ip", "x-remote-addr"),
        *("client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip"),
        # What keystonemiddleware says of a token that it has verified, and older spellings.
        *("x-identity-status", "x-project", "x-project-id", "x-user", "x-role", "x-roles", "x-tenant"),
        *("x-is-admin-project", "openstack-system-scope", "x-subject-token"),
        # Who a request comes from, as other authenticating proxies say it.
        *("remote-user", "x-remote-user", "x-webauth-user", "x-authenticated-user", "x-authenticated-userid"),
        # This service: the client, and what a pre-signed URL opens (see also the prefix below).
        "client-id",
        # Metadata services: of Google, Azure, OpenStack (nova, neutron, and proxies in front of them).
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
    # The service signs with these.
    "webhook-",
)


_BESIDE_A_TOKEN = frozenset({"client-id", "x-project-id"})


def check(headers: Mapping[str, str], *, field: str, with_token: bool = False) -> None:
    """Raise InvalidInput, which names the header below ``field``, unless all of these may be sent.

    ``with_token``: the service adds a token, which says who asks.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        place, folded = f"{field}.{name[:64]!a}", fold(name)
        if _NAME.fullmatch(name) is None:
            raise InvalidInput(place, "is no name of a header")
        is_refused = folded in _REFUSED or folded.startswith(_REFUSED_PREFIXES)
        if is_refused and not (with_token and folded in _BESIDE_A_TOKEN):
            raise InvalidInput(
                place, "is a header that the service sets, that rules the connection, or that says who or where from"
            )
        if folded in seen:
            raise InvalidInput(place, "is given twice, in two spellings")
        if _VALUE.fullmatch(value) is None or value != value.strip():
            raise InvalidInput(place, "must have a value of at most 4096 printable ASCII characters")
        seen.add(folded)


def fold(name: str) -> str:
    """One spelling for all names that some receiver takes for the same header.

    CGI and WSGI turn ``-`` into ``_``, older servers every character that is no letter or digit.
    """
    return _NOT_ALPHANUMERIC.sub("-", name.lower())
