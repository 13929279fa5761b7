# SPDX-License-Identifier: Apache-2.0
"""The Sphinx directive ``.. metrics::``, which makes a table of metrics from their definitions.

Its argument is the page of the exporter: ``host``, ``stores`` or ``queues``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from zaqar_docs import literal, table

from zaqar.metrics.asked_families import OF_PROCESSES, OF_QUEUES, OF_STORES
from zaqar.metrics.families import Counter, Families, Family, Histogram

PAGES: Mapping[str, Sequence[Family]] = {
    "host": (*Families.by_name.values(), *OF_PROCESSES),
    "stores": OF_STORES,
    "queues": OF_QUEUES,
}


def row_of(family: Family) -> tuple[str, str, str, str]:
    """The name as Prometheus shows it, the type, the labels and the meaning."""
    labels = ", ".join(literal(label) for label in family.labels)
    if isinstance(family, Histogram):
        buckets = ", ".join(f"{bound:g}" for bound in family.buckets)
        return literal(family.name), "histogram", labels, f"{family.help} Buckets up to {buckets} s."
    is_counter = isinstance(family, Counter)
    name = f"{family.name}_total" if is_counter else family.name
    return literal(name), "counter" if is_counter else "gauge", labels, family.help


class Metrics(SphinxDirective):
    """A table of the metrics of a page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = table(("metric", "type", "labels", "meaning"), map(row_of, PAGES[self.arguments[0]]))
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("metrics", Metrics)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
