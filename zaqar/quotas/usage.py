# SPDX-License-Identifier: Apache-2.0
"""Checks the number of messages of a queue and the stored bytes of a project at each post.

Counting them takes too long for a post. So a process remembers the last count and adds its own posts, and a thread
counts again: every ten seconds, and every second if more than 80 % are used. In between, the process does not see the
posts of other processes, nor messages that were deleted. So the limits are soft: they may be exceeded by the posts of
the other processes in that time.

``zaqar.service.messages`` calls it, only if one of these limits is set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zaqar.clock import Clock
from zaqar.errors import QuotaExceeded, StoreUnavailable
from zaqar.metrics.recorder import Recorder
from zaqar.model import QUEUE, TOPIC, Draft, Queue
from zaqar.quotas.amounts import AmountSource, refusal
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

_log = logging.getLogger(__name__)

SECONDS = 10.0
SECONDS_WHEN_NEARLY_FULL = 1.0
"""Time between two counts."""

NEARLY_FULL = 0.8

_PAUSES = 20.0
"""A count that took long is repeated after this many times its duration, so it takes 5 % of a thread at most."""

_MOST_KEYS = 10_000
"""Queues and projects that a process remembers. If there are more, the one that was posted to longest ago is dropped.
"""

_MOST_MESSAGES = 1_000_000
"""Messages of one queue whose bytes are counted at most."""

_PAGE = 500


@dataclass(slots=True, eq=False)
class _Use:
    """What a queue or project uses. ``count`` asks the stores, and may take long."""

    count: Callable[[], int]
    stored: int = 0
    """The last count."""
    own: int = 0
    """Posts of this process since then."""
    counted_at: float = float("-inf")
    took: float = 0.0
    is_wanted: bool = False
    """Whether the thread counts it or is about to."""

    @property
    def used(self) -> int:
        return self.stored + self.own

    def is_stale(self, most: int, now: float) -> bool:
        seconds = SECONDS_WHEN_NEARLY_FULL if self.used > NEARLY_FULL * most else SECONDS
        return now >= self.counted_at + max(seconds, _PAUSES * self.took)


class UsageChecks:
    """The usage that this process knows of. Threads may share it. Its own thread runs only while it counts."""

    def __init__(
        self,
        management: ManagementStore,
        placement: Placement,
        source: AmountSource,
        clock: Clock,
        recorder: Recorder | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._management = management
        self._placement = placement
        self._source = source
        self._clock = clock
        self._monotonic = monotonic
        self._recorder = recorder
        self._uses: dict[tuple[str, str], _Use] = {}
        """By the limit and the uid of the queue or the project, the one that was posted to longest ago first."""
        self._lock = threading.Lock()
        self._wanted: list[_Use] = []
        self._is_counting = False

    def check(self, queue: Queue, drafts: list[Draft]) -> None:
        """Raise QuotaExceeded if the queue or its project has no room for the messages. No store is asked."""
        limits = self._source.of(queue.project)
        if limits.queue_messages is not None:
            used = self._used("queue_messages", queue.uid, limits.queue_messages)
            if used + len(drafts) > limits.queue_messages:
                owner = f"the {queue.kind} '{queue.name}'"
                raise self._refusal("queue_messages", owner, used, limits.queue_messages, "messages")
        if limits.stored_bytes is not None:
            used = self._used("stored_bytes", queue.project, limits.stored_bytes)
            if used + _size_of(drafts) > limits.stored_bytes:
                raise self._refusal("stored_bytes", "the project", used, limits.stored_bytes, "bytes")

    def add(self, queue: Queue, store_ref: StoreRef, drafts: list[Draft]) -> None:
        """Note messages that were stored."""
        limits = self._source.of(queue.project)
        if limits.queue_messages is not None:
            most = limits.queue_messages
            self._add(
                ("queue_messages", queue.uid),
                len(drafts),
                most,
                # One more than the limit, so that a queue that is over its limit is seen as such.
                lambda: store_ref.store.queues.usage(queue=queue, now=self._clock(), most=most + 1).messages,
            )
        if limits.stored_bytes is not None:
            project = queue.project
            self._add(
                ("stored_bytes", project),
                _size_of(drafts),
                limits.stored_bytes,
                lambda: self._count_bytes(project),
            )

    def stored_bytes(self, project: str) -> int:
        """The bytes that a project stores, as remembered, or counted now if that was long ago. May take long."""
        use = self._uses.get(("stored_bytes", project)) or _Use(lambda: self._count_bytes(project))
        if use.is_stale(self._source.of(project).stored_bytes or 0, self._monotonic()):
            self._count(use)
        return use.used

    def _refusal(self, limit: str, owner: str, used: int, most: int, unit: str) -> QuotaExceeded:
        return refusal(self._recorder, limit, f"{owner} has {used:,} of {most:,} {unit}, and no room for the post")

    def _used(self, limit: str, key: str, most: int) -> int:
        use = self._uses.get((limit, key))
        if use is None:
            return 0
        if not use.is_wanted and use.is_stale(most, self._monotonic()):
            self._want(use)
        return use.used

    def _add(self, key: tuple[str, str], amount: int, most: int, count: Callable[[], int]) -> None:
        with self._lock:
            use = self._uses.pop(key, None) or _Use(count)
            # A queue may have another generation or store by now.
            use.count = count
            use.own += amount
            self._uses[key] = use
            if len(self._uses) > _MOST_KEYS:
                del self._uses[next(iter(self._uses))]
        if not use.is_wanted and use.is_stale(most, self._monotonic()):
            self._want(use)

    def _want(self, use: _Use) -> None:
        with self._lock:
            if use.is_wanted:
                return
            use.is_wanted = True
            self._wanted.append(use)
            if self._is_counting:
                return
            self._is_counting = True
        try:
            threading.Thread(target=self._run, name="usage", daemon=True).start()
        except RuntimeError as exc:
            # Not raised: the post is stored. A later one tries again.
            _log.warning("There is no thread to count what projects use: %s", exc)
            with self._lock:
                self._is_counting = False
                for each in self._wanted:
                    each.is_wanted = False
                self._wanted.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._is_counting = False
                    return
                use = self._wanted.pop(0)
            try:
                self._count(use)
            except StoreUnavailable:
                # The driver logs the outage. The last count holds, and the next one is as late as usual.
                use.counted_at = self._monotonic()
            except Exception:  # noqa: BLE001, the thread counts for others, too
                _log.exception("The use of a queue or project could not be counted.")
                use.counted_at = self._monotonic()
            finally:
                use.is_wanted = False

    def _count(self, use: _Use) -> None:
        began, own = self._monotonic(), use.own
        stored = use.count()
        with self._lock:
            # A post during the count may be part of it. It stays in ``own`` until the next count, so that none is lost.
            use.stored, use.own = stored, use.own - own
            use.counted_at = self._monotonic()
            use.took = use.counted_at - began

    def _count_bytes(self, project: str) -> int:
        now = self._clock()
        return sum(
            self._placement.store_of(queue).store.queues.usage(queue=queue, now=now, most=_MOST_MESSAGES).bytes
            for queue in self._queues_of(project)
        )

    def _queues_of(self, project: str) -> Iterator[Queue]:
        for kind in (QUEUE, TOPIC):
            after = ""
            while page := self._management.queue_records.list_after(
                project=project, kind=kind, after=after, limit=_PAGE
            ):
                yield from page
                after = page[-1].name


def _size_of(drafts: list[Draft]) -> int:
    return sum(len(draft.body) for draft in drafts)
