# SPDX-License-Identifier: Apache-2.0
"""Gives the numbers of all processes of this host to prometheus_client. ``zaqar.metrics.pages`` is its only caller."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zaqar.metrics.asked_families import CPU, MEMORY, OF_PROCESSES, OPEN_FILES, RESTARTS, STARTED
from zaqar.metrics.families import BUILD_INFO, CLAIMS, DELIVERIES_SETTLED, Families, Family
from zaqar.metrics.processes import Process, WorkerNumbers
from zaqar.metrics.retirement import Labels, Totals, read_all
from zaqar.metrics.shown import show

SeriesByFamily = dict[Family, list[tuple[Labels, Sequence[float]]]]

_SHOWN_FROM_START: Mapping[Family, Sequence[Labels]] = {
    CLAIMS: [("filled",), ("empty",), ("waited_filled",), ("waited_empty",)],
    DELIVERIES_SETTLED: [("done",), ("dead",), ("discarded",)],
}
"""Series that are shown before they are counted, and so are all families without labels.

Prometheus does not take the first value of a series for an increase.
"""


class HostCollector(Collector):
    """Collects what the processes of this host have counted, and what they use."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is that of all files of cells of this host."""
        self._folder = folder
        self._numbers = WorkerNumbers()

    def describe(self) -> Iterable[Metric]:
        """All families, without series. prometheus_client asks for them when the collector is registered."""
        return (show(family, []) for family in (*Families.by_name.values(), *OF_PROCESSES))

    def collect(self) -> Iterator[Metric]:
        """All families with their present values. Raises OSError."""
        totals, running = read_all(self._folder)
        of_processes = _series_of_processes(self._numbers.assign(running), totals.failures)
        for family, series in (_series_by_family(totals) | of_processes).items():
            yield show(family, series)


def _series_by_family(totals: Totals) -> SeriesByFamily:
    """The series of each family, sorted by label."""
    found: dict[Family, dict[Labels, Sequence[float]]] = {family: {} for family in Families.by_name.values()}
    for family, series in found.items():
        for labels in _SHOWN_FROM_START.get(family, () if family.labels else [()]):
            series[labels] = [0.0] * family.size
    for (family, labels), cells in totals.series.items():
        found[family][labels] = cells
    # Each API worker reports its version, and all of them together are one.
    versions = list(found[BUILD_INFO]) or [(version("zaqar"), platform.python_version(), "none")]
    found[BUILD_INFO] = {labels: [1.0] for labels in versions}
    return {family: sorted(series.items()) for family, series in found.items()}


def _series_of_processes(processes: Iterable[Process], failures: Mapping[str, int]) -> SeriesByFamily:
    found: SeriesByFamily = {family: [] for family in OF_PROCESSES}
    for part, worker, usage in processes:
        labels = (part, str(worker))
        found[CPU].append((labels, [usage.cpu_seconds]))
        found[MEMORY].append((labels, [usage.resident_bytes]))
        found[OPEN_FILES].append((labels, [usage.open_files]))
        found[STARTED].append((labels, [usage.started]))
    found[RESTARTS] = [((part,), [count]) for part, count in sorted(failures.items())]
    return found
