# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench rows``: measures single operations, one kind after the other, on one or several servers in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from zaqar.benchmarks.figures import Figures, middle, ratio
from zaqar.benchmarks.spelling import Draft, next_page
from zaqar.benchmarks.subject import Scene, Subject

_BATCH = 10

Prepare = Callable[[Scene, Sequence[Draft], int], list[bytes]]
"""Makes the requests of a row. Its arguments are the scene, the messages to post, and the number of requests."""


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
    def prepare(scene: Scene, drafts: Sequence[Draft], count: int) -> list[bytes]:
        return [scene.author.post(scene.queue, _drafts(drafts, each, number * each)) for number in range(count)]

    return prepare


def _list(scene: Scene, _drafts: Sequence[Draft], count: int) -> list[bytes]:
    """The pages of the queue from its start, at most 20 different ones."""
    pages = [scene.reader.page(scene.queue, limit=_BATCH)]
    while len(pages) < 20 and not scene.subject.plain:
        following = next_page(scene.prepare(pages[-1:])[0])
        if following is None:
            # A page without a ``next`` link is empty. Leave it out, because the row measures full pages.
            pages.pop()
            break
        pages.append(scene.reader.get(following))
    return list(islice(cycle(pages), count))


def _get(scene: Scene, _drafts: Sequence[Draft], count: int) -> list[bytes]:
    (found,) = scene.hrefs(scene.prepare([scene.reader.page(scene.queue, limit=_BATCH)]), _BATCH)
    return [scene.reader.get(href) for href in islice(cycle(found), count)]


def _claim(each: int) -> Prepare:
    def prepare(scene: Scene, _drafts: Sequence[Draft], count: int) -> list[bytes]:
        return [scene.reader.claim(scene.queue, limit=each)] * count

    return prepare


def _delete_claimed(scene: Scene, _drafts: Sequence[Draft], _count: int) -> list[bytes]:
    return [scene.reader.delete(href) for claim in scene.hrefs(scene.answers, 1) for href in claim]


def _bulk_delete(scene: Scene, _drafts: Sequence[Draft], _count: int) -> list[bytes]:
    return [scene.reader.delete_claimed(scene.queue, claim) for claim in scene.hrefs(scene.answers, _BATCH) if claim]


def _delete_free(scene: Scene, drafts: Sequence[Draft], count: int) -> list[bytes]:
    posts = [scene.author.post(scene.queue, _drafts(drafts, _BATCH))] * -(-count // _BATCH)
    posted = scene.resources(scene.prepare(posts), _BATCH)
    return [scene.reader.delete(href) for href in posted[:count]]


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
        scenes = [Scene(subject, project, token) for subject in subjects]
        for scene in scenes:
            scene.prepare([scene.author.post(scene.queue, _drafts(drafts, 1))])
        turns = list(enumerate(scenes))
        for row in ROWS:
            for index, scene in turns if number % 2 == 0 else reversed(turns):
                figures = scene.measure(row.prepare(scene, drafts, count), row.good)
                collected[row.name][index].append(figures)
        for scene in scenes:
            scene.drop()
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
