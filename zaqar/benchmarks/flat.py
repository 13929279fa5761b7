# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench flat``: the cost of each operation on a queue with many messages, relative to a queue with few.

There are two queues for each state of a message, one filled with few and one with many messages of that state. Each
operation is measured on both in turn. All queues are filled before the first measurement, so that the shortest TTL that
the API allows has to be waited for only once. A server removes expired messages when it finds them, so each round has
queues of its own for this state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zaqar.benchmarks.figures import Figures, middle, ratio
from zaqar.benchmarks.request_encoder import MESSAGE_TTL, Draft, make_body
from zaqar.benchmarks.subject import Subject, Trial

SHORTEST_TTL = 60
LONGEST_DELAY = 900
LONGEST_CLAIM = 43_200

_CLAIM_LIMIT = 20
_POST_BYTES = 200_000

STATES = ("expired", "claimed", "ready", "delayed")
"""In the order in which they are made: first messages that have to expire, last delays that must not run out."""

Report = Callable[[str], None]
Pair = tuple[Trial, Trial]


@dataclass(frozen=True, slots=True)
class Step:
    """The figures of one operation with few and with many messages. Each ratio is many to few."""

    state: str
    operation: str
    few: Figures
    many: Figures
    cpu_ratio: float | None
    p50_ratio: float | None


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of a measurement. ``fill_bytes`` is the size of the bodies that fill the queues."""

    few: int = 100
    many: int = 100_000
    fill_bytes: int = 100
    rounds: int = 3
    count: int = 100


def measure(
    subject: Subject,
    *,
    extent: Extent,
    project: str,
    token: str | None = None,
    report: Report = print,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Step]:
    """Measure every operation in every state. Takes more than a minute, and deletes its queues in the end."""
    pairs = {state: _pairs(subject, state, extent, project, token) for state in STATES}
    expired_at = 0.0
    for state, rounds in pairs.items():
        report(f"making {extent.few} and {extent.many} {state} messages")
        for few, many in dict.fromkeys(rounds):
            fill(few, state, extent.few, extent.fill_bytes)
            fill(many, state, extent.many, extent.fill_bytes)
        if state == "expired":
            expired_at = time.monotonic() + SHORTEST_TTL + 1
    remaining = expired_at - time.monotonic()
    if remaining > 0:
        report(f"waiting {remaining:.0f} s for messages to expire")
        sleep(remaining)
    steps = [step for state, rounds in pairs.items() for step in _measure_state(state, rounds, extent.count, report)]
    for rounds in pairs.values():
        for trial in {trial for pair in rounds for trial in pair}:
            trial.drop()
    return steps


def _pairs(subject: Subject, state: str, extent: Extent, project: str, token: str | None) -> list[Pair]:
    """For each round, the trial with few and the trial with many messages."""

    def pair() -> Pair:
        return Trial(subject, project, token), Trial(subject, project, token)

    return [pair() for _ in range(extent.rounds)] if state == "expired" else [pair()] * extent.rounds


def fill(trial: Trial, state: str, size: int, body_bytes: int) -> None:
    """Put ``size`` messages of a state into the queue of a trial. For ``expired`` they expire a minute later."""
    # Some servers use the delay of a message only if the queue has a default delay.
    trial.prepare([trial.author.create(trial.queue, {"_default_message_delay": 1} if state == "delayed" else {})])
    draft: Draft = {
        "body": make_body(body_bytes),
        "ttl": SHORTEST_TTL if state == "expired" else MESSAGE_TTL,
        "delay": LONGEST_DELAY if state == "delayed" else 0,
    }
    each = max(1, _POST_BYTES // (body_bytes + 100))
    full, rest = divmod(size, each)
    trial.prepare([trial.author.post(trial.queue, [draft] * each)] * full)
    if rest:
        trial.prepare([trial.author.post(trial.queue, [draft] * rest)])
    if state == "claimed":
        claim = trial.reader.claim(trial.queue, limit=_CLAIM_LIMIT, ttl=LONGEST_CLAIM)
        trial.prepare([claim] * -(-size // _CLAIM_LIMIT))


def _measure_state(state: str, rounds: Sequence[Pair], count: int, report: Report) -> list[Step]:
    report(f"measuring beside {state} messages")
    collected: dict[str, tuple[list[Figures], list[Figures]]] = {name: ([], []) for name, _, _ in OPERATIONS}
    for number, pair in enumerate(rounds):
        for name, prepare, status in OPERATIONS:
            sides = list(zip(pair, collected[name], strict=True))
            for trial, side in sides if number % 2 == 0 else reversed(sides):
                side.append(trial.measure(prepare(trial, count), {status}))
    return [_step(state, name, few, many) for name, (few, many) in collected.items()]


def _step(state: str, operation: str, few: Sequence[Figures], many: Sequence[Figures]) -> Step:
    return Step(
        state,
        operation,
        middle(few),
        middle(many),
        ratio((each.total_cpu for each in many), (each.total_cpu for each in few)),
        ratio((each.p50 for each in many), (each.p50 for each in few)),
    )


def _post(trial: Trial, count: int) -> list[bytes]:
    draft = {"body": make_body(), "ttl": MESSAGE_TTL, "delay": 0}
    return [trial.author.post(trial.queue, [draft])] * count


def _page(trial: Trial, count: int) -> list[bytes]:
    return [trial.reader.page(trial.queue, limit=10)] * count


def _claim(trial: Trial, count: int) -> list[bytes]:
    return [trial.reader.claim(trial.queue, limit=1)] * count


def _delete(trial: Trial, _count: int) -> list[bytes]:
    return [trial.reader.delete(href) for claim in trial.hrefs(trial.answers, 1) for href in claim]


OPERATIONS = (
    ("POST 1", _post, 201),
    ("GET list 10", _page, 200),
    ("claim 1", _claim, 201),
    ("delete claimed 1", _delete, 204),
)
"""A round posts, claims and deletes the same number of messages, so a queue keeps its size."""
