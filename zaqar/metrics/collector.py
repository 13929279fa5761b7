# SPDX-License-Identifier: Apache-2.0
"""Gives the numbers of all processes of this host to prometheus_client. The exporter is its only caller.

prometheus_client makes the formats. Nothing else of it is used, and no API worker imports it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zaqar.metrics.families import (
    BUILD_INFO,
    CLAIMS,
    DELIVERIES_SETTLED,
    Counter,
    Families,
    Family,
    Histogram,
)
from zaqar.metrics.processes import Process, WorkerNumbers
from zaqar.metrics.retirement import Totals, read_all

Labels = tuple[str, ...]

_SHOWN_FROM_START: Mapping[Family, Sequence[Labels]] = {
    CLAIMS: [("filled",), ("empty",), ("waited_filled",), ("waited_empty",)],
    DELIVERIES_SETTLED: [("done",), ("dead",), ("discarded",)],
}
"""Series that are shown before they are counted, and so are all families without labels.

Prometheus does not take the first value of a series for an increase.
"""

_WORKER = ("part", "worker")


class HostCollector(Collector):
    """Collects what the processes of this host have counted, and what they use."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is that of all files of cells of this host."""
        self._folder = folder
        self._numbers = WorkerNumbers()

    def describe(self) -> Iterable[Metric]:
        """All families, without series. prometheus_client asks for them when the collector is registered."""
        yield from (_show(family, []) for family in Families.by_name.values())
        yield from _show_processes([], {})

    def collect(self) -> Iterator[Metric]:
        """All families with their present values. Raises OSError."""
        totals, running = read_all(self._folder)
        by_family = _series_by_family(totals)
        for family, series in by_family.items():
            yield _show(family, series)
        yield from _show_processes(self._numbers.assign(running), totals.failures)


def _series_by_family(totals: Totals) -> dict[Family, list[tuple[Labels, Sequence[float]]]]:
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


def _show(family: Family, series: Iterable[tuple[Labels, Sequence[float]]]) -> Metric:
    shown: Metric
    if isinstance(family, Histogram):
        shown = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, cells in series:
            shown.add_metric(labels, list(_cumulate(family, cells)), cells[-1])
        return shown
    kind = CounterMetricFamily if isinstance(family, Counter) else GaugeMetricFamily
    shown = kind(family.name, family.help, labels=family.labels)
    for labels, (value,) in series:
        shown.add_metric(labels, value)
    return shown


def _cumulate(family: Histogram, cells: Sequence[float]) -> Iterator[tuple[str, float]]:
    """The buckets as Prometheus has them: each counts all values up to its bound."""
    count = 0.0
    for bound, cell in zip((*family.buckets, float("inf")), cells[:-1], strict=True):
        count += cell
        yield "+Inf" if bound == float("inf") else repr(bound), count


def _show_processes(processes: Iterable[Process], failures: Mapping[str, int]) -> Iterator[Metric]:
    # The names that client libraries of all languages have for these.
    cpu = CounterMetricFamily("process_cpu_seconds", "CPU time of a process, in user and system mode.", labels=_WORKER)
    memory = GaugeMetricFamily("process_resident_memory_bytes", "Memory that a process occupies.", labels=_WORKER)
    files = GaugeMetricFamily("process_open_fds", "Open files, sockets and pipes of a process.", labels=_WORKER)
    started = GaugeMetricFamily(
        "process_start_time_seconds", "When a process began, in seconds since the epoch.", labels=_WORKER
    )
    restarts = CounterMetricFamily(
        "zaqar_process_restarts",
        "Processes that have ended without being told to: killed, crashed, or stuck for too long.",
        labels=["part"],
    )
    for part, worker, usage in processes:
        labels = (part, str(worker))
        cpu.add_metric(labels, usage.cpu_seconds)
        memory.add_metric(labels, usage.resident_bytes)
        files.add_metric(labels, usage.open_files)
        started.add_metric(labels, usage.started)
    for part, count in sorted(failures.items()):
        restarts.add_metric([part], count)
    yield from (cpu, memory, files, started, restarts)
