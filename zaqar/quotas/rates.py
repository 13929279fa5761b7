# SPDX-License-Identifier: Apache-2.0
"""Applies the rates of ``[quota]`` to requests and posts.

Each process counts for itself and has its share of each rate. So a project whose requests do not spread evenly over the
processes may get less than its rate, down to the share of one process. It never gets more.

``zaqar.service.messages`` checks posts. The transports check requests, and show clients how much is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zaqar.errors import RateExceeded
from zaqar.metrics.families import THROTTLED
from zaqar.metrics.recorder import Recorder
from zaqar.model import QueueName
from zaqar.quotas.gcra import Gcra
from zaqar.quotas.settings import QuotaSettings

PROJECT = "project"
QUEUE = "queue"
"""Scopes of limits. The second one is for each queue or topic."""

NEARLY_EXHAUSTED = 0.2
"""Part of a burst. If less is left, answers over HTTP say how much."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One limit. ``name`` is that of the option, ``policy`` the one in the headers ``RateLimit`` (an RFC draft).

    ``limit`` units are admitted in ``window`` seconds by all processes together, and ``counter`` has the share of this
    one.
    """

    name: str
    scope: str
    policy: str
    unit: str
    limit: int
    window: int
    counter: Gcra[str | QueueName]

    def key(self, queue_name: QueueName) -> str | QueueName:
        return queue_name.project if self.scope == PROJECT else queue_name


class RateUse(NamedTuple):
    """How much of a limit is used by a project. ``used`` is an estimate from the share of this process."""

    rate: Rate
    used: int | None


class Rates:
    """The rates of this process. Threads may share it."""

    def __init__(
        self, settings: QuotaSettings, recorder: Recorder | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` returns seconds and never goes back."""
        self._clock = clock
        self._recorder = recorder
        self._processes = settings.processes
        self.of_requests = _make(settings, "request_rate", PROJECT, "request", "requests")
        made = (
            _make(settings, "post_rate", PROJECT, "post", "messages"),
            _make(settings, "queue_post_rate", QUEUE, "queue-post", "messages"),
            _make(settings, "post_bytes_rate", PROJECT, "post-bytes", "content-bytes"),
            _make(settings, "queue_post_bytes_rate", QUEUE, "queue-post-bytes", "content-bytes"),
        )
        self.of_posts = tuple(rate for rate in made if rate is not None)

    def check_request(self, project: str) -> dict[str, str] | None:
        """Count a request of a project. Raises RateExceeded.

        Returns the headers ``RateLimit-Policy`` and ``RateLimit`` for an answer over HTTP; None if much is left.
        """
        rate = self.of_requests
        if rate is None:
            return None
        now, counter = self._clock(), rate.counter
        ahead = counter.take(project, now)
        if ahead < 0.0:
            raise self._refusal(rate, "the project", -ahead)
        if ahead <= (1.0 - NEARLY_EXHAUSTED) * counter.span:
            return None
        return self._headers((rate,), lambda rate: project)

    def check_post(self, queue_name: QueueName, messages: int, size: int) -> None:
        """Count a post of so many messages in a body of ``size`` bytes. Raises RateExceeded, and counts nothing then.

        A post with more messages or bytes than a burst is admitted if no part of the burst is used.
        """
        now = self._clock()
        longest, refusing = 0.0, None
        for rate in self.of_posts:
            wait = rate.counter.wait(rate.key(queue_name), messages if rate.unit == "messages" else size, now)
            if wait > longest:
                longest, refusing = wait, rate
        if refusing is not None:
            owner = "the project" if refusing.scope == PROJECT else f"the {queue_name.kind} '{queue_name.name}'"
            raise self._refusal(refusing, owner, longest)
        for rate in self.of_posts:
            rate.counter.count(rate.key(queue_name), messages if rate.unit == "messages" else size, now)

    def post_headers(self, queue_name: QueueName) -> dict[str, str] | None:
        """The same headers for the answer to a post."""
        return self._headers(self.of_posts, lambda rate: rate.key(queue_name))

    def uses(self, project: str) -> Iterator[RateUse]:
        """All rates, with the use by the project; None for those of queues."""
        now = self._clock()
        for rate in (self.of_requests, *self.of_posts):
            if rate is None:
                continue
            used = None
            if rate.scope == PROJECT:
                share = (rate.counter.burst - rate.counter.left(project, now)) * self._processes
                used = min(rate.limit, math.ceil(round(share, 6)))
            yield RateUse(rate, used)

    def _headers(self, rates: tuple[Rate, ...], key_of: Callable[[Rate], str | QueueName]) -> dict[str, str] | None:
        now = self._clock()
        near = []
        for rate in rates:
            key = key_of(rate)
            left = rate.counter.left(key, now)
            if left < NEARLY_EXHAUSTED * rate.counter.burst * (1.0 - 1e-9):
                near.append((rate, int(left + 1e-6), math.ceil(rate.counter.seconds_until_full(key, now))))
        if not near:
            return None
        return {
            "RateLimit-Policy": ", ".join(_policy(rate) for rate, _, _ in near),
            "RateLimit": ", ".join(f'"{rate.policy}";r={left};t={seconds}' for rate, left, seconds in near),
        }

    def _refusal(self, rate: Rate, owner: str, wait: float) -> RateExceeded:
        if self._recorder is not None:
            self._recorder.add(THROTTLED, (rate.name,))
        unit = "bytes" if rate.unit == "content-bytes" else rate.unit
        retry_after = max(1, math.ceil(wait))
        return RateExceeded(
            f"{rate.name}: {owner} may use {rate.limit:,} {unit} in {rate.window} s; try again in {retry_after} s.",
            retry_after=retry_after,
            headers={
                "RateLimit-Policy": _policy(rate),
                "RateLimit": f'"{rate.policy}";r=0;t={retry_after}',
            },
        )


def _make(settings: QuotaSettings, name: str, scope: str, policy: str, unit: str) -> Rate | None:
    rate: float = getattr(settings, name)
    if not rate:
        return None
    share = rate / settings.processes
    # A rate below one event in the burst time still admits one event at once.
    window = max(1, math.ceil(max(settings.burst, 1.0 / rate)))
    limit = max(1, round(rate * window))
    return Rate(name, scope, policy, unit, limit, window, Gcra(share, share * settings.burst))


def _policy(rate: Rate) -> str:
    unit = f';qu="{rate.unit}"' if rate.unit == "content-bytes" else ""
    return f'"{rate.policy}";q={rate.limit};w={rate.window}{unit}'
