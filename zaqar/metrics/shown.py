# SPDX-License-Identifier: Apache-2.0
"""Makes the objects of prometheus_client from families and their series. The collectors call it.

prometheus_client makes the formats from these objects. No API worker imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from zaqar.metrics.families import Counter, Family, Histogram


def show(family: Family, series: Iterable[tuple[tuple[str, ...], Sequence[float]]]) -> Metric:
    """Make the object for a family. Each of its series has the values of the labels, and the cells."""
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
