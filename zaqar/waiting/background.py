# SPDX-License-Identifier: Apache-2.0
"""Threads that run only while somebody waits."""

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
"""Not the one of the module, whose sequence programs may have fixed."""

LINGER_SECONDS = 5.0
"""How long a thread goes on after nobody needs it, as clients that wait again and again come back in a moment."""

LONGEST_BACK_OFF_SECONDS = 4.0


class Job(ABC):
    """Something that a thread of its own does again and again. With gevent's patches it is a greenlet."""

    name: str
    """Of the thread."""

    def __init__(self) -> None:
        self._nudged = threading.Event()

    def nudge(self) -> None:
        """Have the next step begin now. Any thread may call it."""
        self._nudged.set()

    def rest(self, seconds: float) -> None:
        """Wait for a nudge."""
        if seconds > 0:
            self._nudged.wait(seconds)
        self._nudged.clear()

    @abstractmethod
    def is_needed(self) -> bool: ...

    @abstractmethod
    def step(self) -> float:
        """Do it once. Returns how many seconds to rest. A step that waits by itself waits about a second at most."""

    def close(self) -> None:  # noqa: B027, most jobs have nothing to close
        """The thread ends, or the last step has failed; a step after that begins anew."""


class Background:
    """Keeps at most one thread for each job that is needed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all threads: a child process has none of its parent."""
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, Job] = {}
        self._lingers = True

    def end(self) -> None:
        """Have each thread end as soon as nobody needs it."""
        self._lingers = False
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.nudge()

    def get(self, key: Hashable) -> Job | None:
        """The job if its thread runs."""
        return self._jobs.get(key)

    def start(self, key: Hashable, make: Callable[[], Job]) -> None:
        """Have a thread for this job unless there is one. The job must be needed already.

        If the system refuses a thread, the log says so, and the next call tries again.
        """
        # A thread that is about to end has either removed its key, or finds the job needed and goes on.
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
            # Not raised: a post that has found it must not fail, and clients are still woken by what this process does.
            _log.error("%s: there is no thread for it, so clients that wait are answered late: %s", job.name, exc)

    def _run(self, key: Hashable, job: Job) -> None:
        jobs = self._jobs
        last_needed, failures = time.monotonic(), 0
        try:
            while True:
                if jobs is not self._jobs:
                    return  # A greenlet of the parent goes on in a child process.
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
