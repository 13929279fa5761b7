# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench rows``: measures single operations, one kind after the other, on one or several servers in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from zaqar.benchmarks.figures import Figures, middle, ratio
from zaqar.benchmarks.request_encoder import Draft, next_page
from zaqar.benchmarks.subject import Subject, Trial

_BATCH = 10

Prepare = Callable[[Trial, Sequence[Draft], int], list[bytes]]
"""Makes the requests of a row. Its arguments are the trial, the messages to post, and the number of requests."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of operation. Rows build on each other: a delete takes the messages that the row before has claimed."""

    name: str
    prepare: Prepare
    good: frozenset[int]


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one row for each subject, in order. ``ratios``: figures of the first one to each other one's."""

    name: str
    figures: list[Figures]
    ratios: list[dict[str, float | None]]


def _drafts(drafts: Sequence[Draft], count: int, offset: int = 0) -> list[Draft]:
    return list(islice(cycle(drafts), offset % len(drafts), offset % len(drafts) + count))


def _post(each: int) -> Prepare:
    def prepare(trial: Trial, drafts: Sequence[Draft], count: int) -> list[bytes]:
        return [trial.author.post(trial.queue, _drafts(drafts, each, number * each)) for number in range(count)]

    return prepare


def _list(trial: Trial, _drafts: Sequence[Draft], count: int) -> list[bytes]:
    """The pages of the queue from its start, at most 20 different ones."""
    pages = [trial.reader.page(trial.queue, limit=_BATCH)]
    while len(pages) < 20 and not trial.subject.plain:
        following = next_page(trial.prepare(pages[-1:])[0])
        if following is None:
            # A page without a ``next`` link is empty. Leave it out, because the row measures full pages.
            pages.pop()
            break
        pages.append(trial.reader.get(following))
    return list(islice(cycle(pages), count))


def _get(trial: Trial, _drafts: Sequence[Draft], count: int) -> list[bytes]:
    (found,) = trial.hrefs(trial.prepare([trial.reader.page(trial.queue, limit=_BATCH)]), _BATCH)
    return [trial.reader.get(href) for href in islice(cycle(found), count)]


def _claim(each: int) -> Prepare:
    def prepare(trial: Trial, _drafts: Sequence[Draft], count: int) -> list[bytes]:
        return [trial.reader.claim(trial.queue, limit=each)] * count

    return prepare


def _delete_claimed(trial: Trial, _drafts: Sequence[Draft], _count: int) -> list[bytes]:
    return [trial.reader.delete(href) for claim in trial.hrefs(trial.answers, 1) for href in claim]


def _bulk_delete(trial: Trial, _drafts: Sequence[Draft], _count: int) -> list[bytes]:
    return [trial.reader.delete_claimed(trial.queue, claim) for claim in trial.hrefs(trial.answers, _BATCH) if claim]


def _delete_free(trial: Trial, drafts: Sequence[Draft], count: int) -> list[bytes]:
    posts = [trial.author.post(trial.queue, _drafts(drafts, _BATCH))] * -(-count // _BATCH)
    posted = trial.resources(trial.prepare(posts), _BATCH)
    return [trial.reader.delete(href) for href in posted[:count]]


ROWS = (
    Row("POST 1", _post(1), frozenset({201})),
    Row("POST 10", _post(_BATCH), frozenset({201})),
    Row("GET list 10", _list, frozenset({200})),
    Row("GET one", _get, frozenset({200})),
    Row("claim 1", _claim(1), frozenset({201})),
    Row("delete claimed 1", _delete_claimed, frozenset({204})),
    Row("claim 10", _claim(_BATCH), frozenset({201})),
    Row("bulk delete 10", _bulk_delete, frozenset({204})),
    Row("delete free 1", _delete_free, frozenset({204})),
)


def measure(
    subjects: Sequence[Subject],
    *,
    drafts: Sequence[Draft],
    rounds: int,
    count: int,
    project: str,
    token: str | None = None,
) -> list[Measured]:
    """Measure each row ``rounds`` times with ``count`` requests. Every other round takes the subjects in reverse."""
    collected: dict[str, list[list[Figures]]] = {row.name: [[] for _ in subjects] for row in ROWS}
    for number in range(rounds):
        trials = [Trial(subject, project, token) for subject in subjects]
        for trial in trials:
            trial.prepare([trial.author.post(trial.queue, _drafts(drafts, 1))])
        turns = list(enumerate(trials))
        for row in ROWS:
            for index, trial in turns if number % 2 == 0 else reversed(turns):
                figures = trial.measure(row.prepare(trial, drafts, count), row.good)
                collected[row.name][index].append(figures)
        for trial in trials:
            trial.drop()
    return [_measured(name, sides) for name, sides in collected.items()]


def _measured(name: str, collected: Sequence[Sequence[Figures]]) -> Measured:
    first, *others = collected
    return Measured(name, [middle(rounds) for rounds in collected], [_ratios(first, other) for other in others])


def _ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> dict[str, float | None]:
    return {
        "cpu": ratio((each.total_cpu for each in ours), (each.total_cpu for each in theirs)),
        "p50": ratio((each.p50 for each in ours), (each.p50 for each in theirs)),
        "rate": ratio((each.rate for each in ours), (each.rate for each in theirs)),
    }
