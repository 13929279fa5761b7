# SPDX-License-Identifier: Apache-2.0
"""The rules of a pre-signed URL: its maker must be allowed everything that the URL allows.

The transports check these rules when they make a URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_RULES = {
    ("messages", "GET"): ("messages:get_all", "messages:get"),
    ("messages", "POST"): ("messages:create",),
    ("messages", "DELETE"): ("messages:delete_all", "messages:delete"),
    ("claims", "GET"): ("claims:get",),
    ("claims", "POST"): ("claims:create",),
    ("claims", "PATCH"): ("claims:update",),
    ("claims", "DELETE"): ("claims:delete",),
    ("subscriptions", "GET"): ("subscription:get_all", "subscription:get"),
    ("subscriptions", "POST"): ("subscription:create",),
    ("subscriptions", "PATCH"): ("subscription:update",),
    ("subscriptions", "PUT"): ("subscription:confirm", "subscription:confirm_unsigned"),
    ("subscriptions", "DELETE"): ("subscription:delete",),
}
"""(collection, method) -> the rules of the operations on it and its members. A test compares it with the routes."""


def granted_rules(collections: Iterable[str], methods: Iterable[str]) -> Iterator[str]:
    """Yield the rules of these methods on these collections. An unknown combination has no rule."""
    wanted = set(methods)
    for collection in collections:
        for method in sorted(wanted | {"GET"} if "HEAD" in wanted else wanted):
            yield from _RULES.get((collection, method), ())
