# SPDX-License-Identifier: Apache-2.0
"""Compares a queue of the source with its copy, message by message. ``__main__`` calls it after each copy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from zaqar.upgrade.copying import SHORTEST_TTL, digest_of
from zaqar.upgrade.progress import Progress

Pages = Iterable[list[dict[str, Any]]]


class Difference(NamedTuple):
    """Messages of the source without a copy on the target, and copies that come before one that was posted earlier."""

    missing: int
    disordered: int


def compare(
    progress: Progress, project: str, queue: str, *, source: Pages, target: Pages, refused: Collection[str] = ()
) -> Difference:
    """Compare ids and bodies. Both listings are read once, a page at a time.

    Messages of the source that expire within a minute may be gone from the target, so they do not count, and neither do
    those in ``refused``. Other messages of the target, such as those of producers that use it already, do not matter.
    """
    progress.forget_seen()
    newest = disordered = 0
    for page in target:
        for position in progress.see((message["id"], digest_of(message["body"])) for message in page):
            disordered += position < newest
            newest = max(newest, position)
    missing = 0
    for page in source:
        for message in page:
            lives = message["ttl"] - message["age"] > SHORTEST_TTL and message["id"] not in refused
            if lives and not progress.was_seen(project, queue, message["id"], digest_of(message["body"])):
                missing += 1
    return Difference(missing, disordered)
