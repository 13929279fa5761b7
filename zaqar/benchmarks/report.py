# SPDX-License-Identifier: Apache-2.0
"""Figures as text. Times are in microseconds, as in all modules here; a table shows latencies in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zaqar.benchmarks.figures import Figures
from zaqar.benchmarks.flat import Step
from zaqar.benchmarks.load import Outcome
from zaqar.benchmarks.rows import Measured
from zaqar.benchmarks.subject import Subject

_HEAD = ("requests/s", "p50 ms", "p99 ms", "CPU us", "store us", "errors")


def load_lines(outcome: Outcome) -> Iterator[str]:
    rows = [[name, *_cells(figures)] for name, figures in outcome.operations.items()]
    head = ["operation", *_HEAD]
    # The CPU time is of all operations together, because they run at the same time.
    for row in [head, *rows]:
        del row[4:6]
    yield from _table([head, *rows])
    yield ""
    yield "messages: " + ", ".join(f"{count} {what}" for what, count in sorted(outcome.messages.items()))
    yield (
        f"all: {outcome.rate:.0f} requests/s, CPU per request:"
        f" server {_number(outcome.cpu)} us, store {_number(outcome.store_cpu)} us"
    )
    yield from _complaints((name, figures) for name, figures in outcome.operations.items())


def row_lines(subjects: Sequence[Subject], measured: Sequence[Measured]) -> Iterator[str]:
    for index, subject in enumerate(subjects):
        yield f"{subject.name}:"
        yield from _table([["row", *_HEAD], *([row.name, *_cells(row.figures[index])] for row in measured)])
        yield ""
    for index, other in enumerate(subjects[1:]):
        yield f"{subjects[0].name} / {other.name}, median of the ratios of each round:"
        ratios = ([row.name, *(_ratio(row.ratios[index][name]) for name in ("cpu", "p50", "rate"))] for row in measured)
        yield from _table([["row", "CPU", "p50", "requests/s"], *ratios])
        yield ""
    yield from _complaints(
        (f"{subject.name}: {row.name}", figures)
        for row in measured
        for subject, figures in zip(subjects, row.figures, strict=True)
    )


def flat_lines(steps: Sequence[Step], few: int, many: int) -> Iterator[str]:
    head = ["state", "operation", f"CPU us at {few}", f"at {many}", "ratio", f"p50 ms at {few}", f"at {many}", "ratio"]
    yield from _table([head, *(_step_cells(step) for step in steps)], texts=2)
    yield from _complaints(
        (f"{step.operation} beside {size} {step.state}", figures)
        for step in steps
        for size, figures in ((few, step.few), (many, step.many))
    )


def _step_cells(step: Step) -> list[str]:
    return [
        step.state,
        step.operation,
        _number(step.few.cpu),
        _number(step.many.cpu),
        _ratio(step.cpu_ratio),
        f"{step.few.p50 / 1000:.2f}",
        f"{step.many.p50 / 1000:.2f}",
        _ratio(step.p50_ratio),
    ]


def _cells(figures: Figures) -> list[str]:
    return [
        f"{figures.rate:.0f}",
        f"{figures.p50 / 1000:.2f}",
        f"{figures.p99 / 1000:.2f}",
        _number(figures.cpu),
        _number(figures.store_cpu),
        str(sum(figures.errors.values())),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _complaints(named: Iterator[tuple[str, Figures]]) -> Iterator[str]:
    for name, figures in named:
        for what, count in figures.errors.items():
            yield f"errors: {name}: {what}: {count}"


def _table(rows: Sequence[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """The lines of a table with aligned columns: the first ``texts`` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:texts], widths[:texts], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[texts:], widths[texts:], strict=True)]
        yield "  ".join(cells)
