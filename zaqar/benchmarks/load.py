# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench``: producers, consumers and observers that work on the same queues at the same time."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier

from zaqar.benchmarks.figures import MICROSECONDS, Figures, Tally, figures
from zaqar.benchmarks.http_client import Connection
from zaqar.benchmarks.request_encoder import Draft, RequestEncoder, hrefs, next_page
from zaqar.benchmarks.subject import Reading, Subject

_PAUSE = 0.01
"""Seconds that a worker rests if it has nothing to do, or after an error."""

_START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Crew:
    """The number of processes in one role, and of workers (threads) in each process."""

    processes: int
    workers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of a load."""

    subject: Subject
    queues: Sequence[str]
    drafts: Sequence[Draft]
    seconds: float
    crews: dict[str, Crew]
    claim_limit: int
    project: str
    token: str | None = None


@dataclass(slots=True)
class Work:
    """The work of one worker, or of all of them: exchanges by operation, and the number of messages."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    messages: Counter[str] = field(default_factory=Counter)

    def tally(self, operation: str) -> Tally:
        return self.tallies.setdefault(operation, Tally())

    def add(self, other: Work) -> None:
        for operation, tally in other.tallies.items():
            self.tally(operation).add(tally)
        self.messages.update(other.messages)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of each operation, and the CPU of the server and of its store per request of any kind."""

    operations: dict[str, Figures]
    messages: dict[str, int]
    rate: float
    cpu: float | None
    store_cpu: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """The state of a worker's loop. ``number`` differs among workers of a role, so they begin at different queues."""

    plan: Plan
    number: int
    deadline: float
    encoder: RequestEncoder
    connection: Connection
    work: Work


def _produce(worker: Worker) -> None:
    plan, tally = worker.plan, worker.work.tally("producer POST 1")
    rounds = max(len(plan.queues), len(plan.drafts))
    requests = [
        worker.encoder.post(plan.queues[number % len(plan.queues)], [plan.drafts[number % len(plan.drafts)]])
        for number in range(worker.number, worker.number + rounds)
    ]
    while True:
        for request in requests:
            if time.monotonic() >= worker.deadline:
                return
            if tally.exchange(worker.connection, request, {201}) is None:
                time.sleep(_PAUSE)
            else:
                worker.work.messages["posted"] += 1


def _consume(worker: Worker) -> None:
    plan, work = worker.plan, worker.work
    claiming = work.tally(f"consumer claim {plan.claim_limit}")
    turn = worker.number
    while time.monotonic() < worker.deadline:
        queue = plan.queues[turn % len(plan.queues)]
        turn += 1
        request = worker.encoder.claim(queue, limit=plan.claim_limit)
        answer = claiming.exchange(worker.connection, request, {201, 204})
        if answer is None or answer.status == 204:
            work.messages["empty claims"] += answer is not None
            time.sleep(_PAUSE)
        else:
            _delete(worker, queue, hrefs(answer))


def _delete(worker: Worker, queue: str, claimed: Sequence[str]) -> None:
    if len(claimed) == 1:
        operation, request = "consumer delete 1", worker.encoder.delete(claimed[0])
    else:
        operation, request = "consumer bulk delete", worker.encoder.delete_claimed(queue, claimed)
    if worker.work.tally(operation).exchange(worker.connection, request, {204}) is not None:
        worker.work.messages["deleted"] += len(claimed)


def _observe(worker: Worker) -> None:
    plan, work = worker.plan, worker.work
    tally = work.tally("observer list 10")
    turn, path = worker.number, None
    while time.monotonic() < worker.deadline:
        if path is None:
            queue = plan.queues[turn % len(plan.queues)]
            path, turn = f"/v2/queues/{queue}/messages?limit=10", turn + 1
        answer = tally.exchange(worker.connection, worker.encoder.get(path), {200})
        path = None if answer is None else next_page(answer)
        if answer is not None and path is not None:
            work.messages["observed"] += len(hrefs(answer))
        else:
            time.sleep(_PAUSE)


ROLES: dict[str, Callable[[Worker], None]] = {"producer": _produce, "consumer": _consume, "observer": _observe}


def run(plan: Plan) -> Outcome:
    """Start all workers together, let them work for ``plan.seconds``, and return their reports.

    Raises RuntimeError if one of the processes dies.
    """
    # Spawn, because the default method differs among platforms and versions of Python.
    context = multiprocessing.get_context("spawn")
    working = {role: crew for role, crew in plan.crews.items() if crew.workers}
    members = [(role, crew, index) for role, crew in working.items() for index in range(crew.processes)]
    barrier = context.Barrier(len(members) + 1)
    processes, pipes = [], []
    for role, crew, index in members:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(plan, role, crew, index, barrier, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    barrier.wait(_START_TIMEOUT)
    before, begin = Reading.of(plan.subject), time.monotonic()
    total = Work()
    try:
        for pipe in pipes:
            total.add(pipe.recv())
    except EOFError as exc:
        raise RuntimeError("a process of the load ended before it reported") from exc
    seconds = time.monotonic() - begin
    server, store = before.until(Reading.of(plan.subject))
    for process in processes:
        process.join()
    return _outcome(plan, total, seconds, server, store)


def _outcome(plan: Plan, total: Work, seconds: float, server: float | None, store: float | None) -> Outcome:
    done = sum(len(tally.latencies) for tally in total.tallies.values())
    per_request = MICROSECONDS / done if done else 0.0
    return Outcome(
        operations={name: figures(tally, plan.seconds) for name, tally in sorted(total.tallies.items())},
        messages=dict(total.messages),
        rate=done / plan.seconds,
        cpu=None if server is None else server * per_request,
        store_cpu=None if store is None else store * per_request,
    )


def _work(plan: Plan, role: str, crew: Crew, index: int, barrier: Barrier, pipe: Pipe) -> None:
    """The main function of one process of a role."""
    barrier.wait(_START_TIMEOUT)
    deadline = time.monotonic() + plan.seconds
    works = [Work() for _ in range(crew.workers)]
    threads = [
        threading.Thread(target=_life, args=(plan, role, index * crew.workers + number, deadline, work))
        for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    total = Work()
    for thread, work in zip(threads, works, strict=True):
        thread.join()
        total.add(work)
    pipe.send(total)
    pipe.close()


def _life(plan: Plan, role: str, number: int, deadline: float, work: Work) -> None:
    encoder = RequestEncoder(plan.subject.endpoint, plan.project, plan.token)
    connection = Connection(plan.subject.endpoint)
    ROLES[role](Worker(plan, number, deadline, encoder, connection, work))
    connection.close()
