# SPDX-License-Identifier: Apache-2.0
"""Threads that run only while they are needed. :class:`~zaqar.waiting.hub.Hub` uses them while clients wait."""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from zaqar.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_random = random.Random()  # noqa: S311, no secret
"""Separate from the generator of the module ``random``, which a program may have seeded."""

LINGER_SECONDS = 5.0
"""How long a thread goes on after it was last needed. Clients that wait again and again come back within that time."""

LONGEST_BACK_OFF_SECONDS = 4.0


class Job(ABC):
    """Work that is repeated in a thread of its own. With gevent's patches the thread is a greenlet."""

    name: str
    """The name of the thread, also in the log."""

    def __init__(self) -> None:
        self._nudged = threading.Event()

    def nudge(self) -> None:
        """End the present or the next rest at once, so that the next step begins. Any thread may call it."""
        self._nudged.set()

    def rest(self, seconds: float) -> None:
        """Wait for a nudge, at most so many seconds."""
        if seconds > 0:
            self._nudged.wait(seconds)
        self._nudged.clear()

    @abstractmethod
    def is_needed(self) -> bool:
        """Whether a client waits for this work. It must not block."""

    @abstractmethod
    def step(self) -> float:
        """Do the work once. Returns the seconds to rest. A step that waits by itself waits about a second at most."""

    def close(self) -> None:  # noqa: B027, most jobs have nothing to close
        """Release what the steps keep open. Called when the thread ends and after a failed step; a step may follow."""


class Background:
    """Keeps at most one thread for each job that is needed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all threads. Called in a child process, in which the threads of its parent do not run."""
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, Job] = {}
        self._lingers = True

    def end(self) -> None:
        """Make each thread end as soon as it is not needed, without LINGER_SECONDS."""
        self._lingers = False
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.nudge()

    def get(self, key: Hashable) -> Job | None:
        """The job if its thread runs."""
        return self._jobs.get(key)

    def start(self, key: Hashable, make: Callable[[], Job]) -> None:
        """Start a thread for this job unless it has one. The job's ``is_needed`` must be true already.

        If the system refuses a thread, the log says so, and the next call tries again.
        """
        # Safe without the lock: _run() asks is_needed() and removes the key under the lock. So a thread that is about
        # to end has either removed its key, and is replaced here, or sees that the job is needed and goes on.
        if key in self._jobs:
            return
        with self._lock:
            if key in self._jobs:
                return
            job = self._jobs[key] = make()
        try:
            threading.Thread(target=self._run, args=(key, job), name=job.name, daemon=True).start()
        except RuntimeError as exc:
            with self._lock:
                del self._jobs[key]
            # Not raised: the caller may be a post, which is stored and must not fail. Clients that wait are still woken
            # by posts and releases of this process.
            _log.error("%s: there is no thread for it, so clients that wait are answered late: %s", job.name, exc)

    def _run(self, key: Hashable, job: Job) -> None:
        jobs = self._jobs
        last_needed, failures = time.monotonic(), 0
        try:
            while True:
                if jobs is not self._jobs:
                    return  # This is a greenlet of the parent, which a fork has copied into the child process.
                with self._lock:
                    now = time.monotonic()
                    if job.is_needed():
                        last_needed = now
                    elif not self._lingers or now >= last_needed + LINGER_SECONDS:
                        del jobs[key]
                        return
                try:
                    seconds = job.step()
                    failures = 0
                except Exception as exc:  # noqa: BLE001, clients wait, so it must go on
                    job.close()
                    failures += 1
                    seconds = _back_off(failures)
                    _tell(job, exc, is_first=failures == 1)
                job.rest(seconds)
        finally:
            if jobs.get(key) is job:
                del jobs[key]
            job.close()


def _tell(job: Job, exc: Exception, *, is_first: bool) -> None:
    # The driver of a store logs an outage.
    if isinstance(exc, StoreUnavailable) or not is_first:
        _log.debug("%s: tried again in a moment.", job.name, exc_info=exc)
    else:
        _log.error("%s has failed. It is tried again until it succeeds.", job.name, exc_info=exc)


def _back_off(failures: int) -> float:
    longest: float = min(LONGEST_BACK_OFF_SECONDS, 0.25 * 2.0 ** min(failures, 10))
    return longest * _random.uniform(0.5, 1.0)
