# SPDX-License-Identifier: Apache-2.0
"""The contract of encryption anew: finding stored bodies that are sealed, and replacing them.

No store can decrypt. Whoever has the keys walks over a store in bounded pages and gives back new bodies, each of which
is written only if the stored one is still the old one. Messages may be claimed, moved and deleted meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

MESSAGE, DELIVERY, POST = "message", "delivery", "post"
"""What a sealed body is of. A post waits for its deliveries to be made; it has the bodies of all its messages."""


class SealedBody(NamedTuple):
    """A stored body that is sealed. ``key`` is for the driver alone."""

    kind: str
    key: Any
    body: bytes


Position = tuple[Any, ...]
"""Where a walk goes on. It is for the driver alone, and good for as long as the store is open."""


class SealedBodyStore(ABC):
    """The part of a message store that is about sealed bodies. No method checks a fence."""

    @abstractmethod
    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        """A page of the sealed bodies that do not begin with ``without``, and where the next page begins.

        ``without`` is b"" for all sealed bodies. ``after`` is None for the first page; None in the answer: that was the
        last one. A page may be empty and not be the last. It looks at about ``limit`` records: messages in any state,
        also those that are set aside, deliveries in any state, and posts, each with its first sealed body. What was
        stored before the walk began and stays where it is comes in one of the pages; what a claim moves to a dead
        letter queue meanwhile may be missed, or come twice.
        """

    @abstractmethod
    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        """Store new bodies for those whose stored body is still the one that was found; return how many.

        Nothing else of a message or delivery changes. Each is an atomic step of its own; to repeat one is safe. Posts
        are left as they are.
        """
