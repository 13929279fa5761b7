# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of a message store that finds encrypted (sealed) bodies and replaces them.

It serves the rotation of keys. No store can decrypt. The caller, which has the keys, reads the sealed bodies in bounded
pages and gives back new bodies. The store writes a new body only if the stored one is still the old one. Messages may
be claimed, moved and deleted meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

MESSAGE, DELIVERY, POST = "message", "delivery", "post"
"""Kinds of records with a body. A post in the outbox has the bodies of all its messages."""


class SealedBody(NamedTuple):
    """A stored body that is sealed. Only the driver can read ``key``; its type differs between drivers."""

    kind: str
    key: Any
    body: bytes


Position = tuple[Any, ...]
"""Where the next page begins. Only the driver can read it. It is valid as long as the store is open."""


class SealedBodyStore(ABC):
    """Sealed bodies of messages, deliveries and posts. No method checks a fence."""

    @abstractmethod
    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        """A page of the sealed bodies that do not begin with ``without``, and the position of the next page.

        ``without`` is b"" for all sealed bodies. ``after`` is None for the first page. A position of None in the result
        means that this was the last page; a page before it may be empty.

        A page looks at about ``limit`` records: messages in any state including ones that are set aside, deliveries in
        any state, and posts, of each only the first sealed body. A record that was stored before the first page and
        stays in place is on one of the pages. A message that a claim moves to a dead letter queue meanwhile may be
        missed or come twice.
        """

    @abstractmethod
    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        """Replace each body by the new one if the stored body is still the one that was found; return how many.

        No other field of a message or delivery changes. Each replacement is its own atomic step and can be repeated.
        Posts are not changed: they are expanded soon, and an old key is needed until then.
        """
