# SPDX-License-Identifier: Apache-2.0
"""Computes the figures of a report (rates, latencies, CPU per request) from the durations of single requests."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from zaqar.benchmarks.http_client import Answer, Connection

MICROSECONDS = 1e6


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the ordered values lie, by the nearest rank; 0.0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Tally:
    """The exchanges of one kind: the duration of each successful one, in seconds, and the number of each error."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.latencies.extend(other.latencies)
        self.errors.update(other.errors)

    def exchange(self, connection: Connection, request: bytes, good: Collection[int]) -> Answer | None:
        """Make one exchange and count it. Returns None if it failed. An empty ``good`` accepts every status."""
        begin = time.perf_counter()
        try:
            answer = connection.exchange(request)
        except OSError as exc:
            self.errors[type(exc).__name__] += 1
            return None
        if good and answer.status not in good:
            self.errors[f"status {answer.status}"] += 1
            return None
        self.latencies.append(time.perf_counter() - begin)
        return answer


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a number of exchanges. Times are in microseconds; CPU is per request, None if not measured."""

    requests: int
    rate: float
    p50: float
    p99: float
    cpu: float | None = None
    store_cpu: float | None = None
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def total_cpu(self) -> float | None:
        """CPU of the server and its store together, because some servers have their store in the same process."""
        return None if self.cpu is None else self.cpu + (self.store_cpu or 0.0)


def figures(tally: Tally, seconds: float, *, cpu: float | None = None, store_cpu: float | None = None) -> Figures:
    """The figures of exchanges made in ``seconds``. ``cpu`` and ``store_cpu`` are the CPU seconds of the processes."""
    ordered = sorted(tally.latencies)
    done = len(ordered)
    per_request = MICROSECONDS / done if done else 0.0
    return Figures(
        requests=done,
        rate=done / seconds if seconds else 0.0,
        p50=percentile(ordered, 0.5) * MICROSECONDS,
        p99=percentile(ordered, 0.99) * MICROSECONDS,
        cpu=None if cpu is None else cpu * per_request,
        store_cpu=None if store_cpu is None else store_cpu * per_request,
        errors=dict(tally.errors),
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds; requests and errors are added up."""
    errors: Counter[str] = Counter()
    for each in rounds:
        errors.update(each.errors)
    return Figures(
        requests=sum(each.requests for each in rounds),
        rate=statistics.median(each.rate for each in rounds),
        p50=statistics.median(each.p50 for each in rounds),
        p99=statistics.median(each.p99 for each in rounds),
        cpu=_median(each.cpu for each in rounds),
        store_cpu=_median(each.store_cpu for each in rounds),
        errors=dict(errors),
    )


def ratio(ours: Iterable[float | None], theirs: Iterable[float | None]) -> float | None:
    """The median of the ratios of all rounds. A disturbance of the machine affects both values of a round alike."""
    return _median(one / other for one, other in zip(ours, theirs, strict=True) if one is not None and other)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
