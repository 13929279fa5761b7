# SPDX-License-Identifier: Apache-2.0
"""Claims that wait, on each store, while clients and processes of the service are killed.

Eight workers wait for the messages of eight producers, on a busy queue and on a quiet one. Each client is a process.
Their notes are checked like the history of a store, and no claim may come back empty while a message was free for more
than a second.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance import waiting_client
from tests.acceptance.service_on_store import Service, all_bodies, each_store
from tests.acceptance.stream_checks import number_of
from tests.acceptance.working_clients import Client, Recorder
from tests.conformance.history import Lease, Post, Record, Release
from tests.conformance.test_history import (
    History,
    a_claim_is_in_order,
    each_message_is_consumed_once,
    each_post_has_its_own_numbers,
    no_message_is_under_two_live_claims,
    producers_are_in_order,
)

SECONDS = float(os.environ.get("ZAQAR_WAITING_SECONDS", "5"))
"""For how many seconds it runs at least. The promise is about 20 seconds."""

MOST_SECONDS = 60.0
"""For how many more seconds it may run, until everything has happened that the test is about."""

KILL_SECONDS = 0.5
KILLED = ("work", "produce", "work", "produce", "service")
"""Clients of these roles are killed in turn, and a worker of the service, which takes longer to be replaced."""

FREE_SECONDS = 1.0
"""How long a message may be free while a claim waits for it."""

LEEWAY_SECONDS = 0.3
"""Added to it for a request and the store's periodic look. The run measures the time that a slow machine loses."""

LOOK_SECONDS = 0.05

RUNS_WITH = "live"
PROJECT = "shop"


class Group(NamedTuple):
    """The clients of one queue. ``pace`` is the mean pause of a producer and of a worker."""

    queue: str
    producers: int
    workers: int
    pace: float


GROUPS = (Group("busy", 7, 5, 0.1), Group("quiet", 1, 3, 1.2))


class ClientSeries:
    """The clients of one role and number, one after the other: a killed client is replaced by another."""

    def __init__(self, role: str, group: Group, number: int, address: tuple[str, int], folder: Path) -> None:
        self.role, self.group, self.number = role, group, number
        # The only producer of the quiet queue is not killed, so that its workers have something to wait for.
        self.is_killed = role == "work" or group.producers > 1
        self._address = address
        self._folder = folder
        self.files: list[Path] = []
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.files.append(self._folder / f"{self.role}-{self.group.queue}-{self.number}-{len(self.files)}")
        host, port = self._address
        words = (self.role, host, port, PROJECT, self.group.queue, self.number, self.group.pace, self.files[-1])
        # -S: without the installed packages, which take longer to load than the client.
        command = [sys.executable, "-S", waiting_client.__file__, *map(str, words)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def end(self) -> int:
        return self.process.wait(60)


class Slowness(threading.Thread):
    """Records when the machine was slow: this thread ran late, or a plain request took long."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._spans: list[tuple[float, float]] = []
        self._client = client
        self._ending = threading.Event()

    def run(self) -> None:
        while True:
            began = time.monotonic()
            if self._ending.wait(LOOK_SECONDS):
                return
            self._client.ask("GET", "/v2/queues/busy/stats")
            self._spans.append((began, time.monotonic()))

    def end(self) -> None:
        self._ending.set()
        self.join()

    def between(self, begin: float, end: float) -> float:
        """The seconds that were lost in this time."""
        lost = (min(end, until) - max(begin, since) - 2 * LOOK_SECONDS for since, until in self._spans)
        return sum(seconds for seconds in lost if seconds > 0)


# -- notes of the clients ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A request for a claim. ``returned`` is None if there was no answer, ``id`` is None if the answer was empty."""

    asked: float
    wait: int
    returned: float | None
    id: str | None
    messages: list[tuple[str, str]]
    """Ids and bodies."""


@dataclass
class Notes:
    """The notes of all clients of one queue."""

    posts: list[Post] = field(default_factory=list)
    free_from: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When a body was certainly free: after its post was acknowledged and its delay had ended, and after releases."""
    maybe_posted: list[tuple[int, list[str]]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    wrong: list[Any] = field(default_factory=list)

    def read(self, series: ClientSeries, *, only_killed: bool = False) -> None:
        """Add the notes of these clients; with ``only_killed`` without the notes of the running client."""
        for file in series.files[:-1] if only_killed else series.files:
            lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            for note, following in itertools.zip_longest(lines, lines[1:]):
                if note["kind"] == "wrong":
                    self.wrong.append(note["answer"])
                elif series.role == "produce":
                    self._note_post(series.number, note, following)
                else:
                    self._note_work(note, following)

    def _note_post(self, producer: int, note: Any, following: Any) -> None:
        if note["kind"] != "post":
            return
        if following is None or following["kind"] != "posted":
            self.maybe_posted.append((producer, note["bodies"]))
            return
        self.posts.append(Post("work", producer, note["bodies"], [number_of(id_) for id_ in following["ids"]]))
        for body in note["bodies"]:
            self.free_from[body].append(following["at"] + note["delay"])

    def _note_work(self, note: Any, following: Any) -> None:
        kind, then = note["kind"], None if following is None else following["kind"]
        if kind == "claim":
            answered = then in ("claimed", "empty")
            claimed = following if then == "claimed" else {"claim": None, "messages": []}
            messages = [(id_, body) for id_, body in claimed["messages"]]
            returned = following["at"] if answered else None
            claim = Claim(note["at"], note["wait"], returned, claimed["claim"], messages)
            self.claims.append(claim)
            if claim.id is not None:
                numbers, bodies = [number_of(id_) for id_, _ in messages], [body for _, body in messages]
                ends = claim.asked + waiting_client.TTL
                self.record.leases.append(Lease(claim.id, ends, following["at"], numbers, bodies))
        elif kind == "release":
            self.record.releases.append(Release(note["claim"], note["at"]))
        elif kind == "released":
            (lease,) = [each for each in self.record.leases if each.claim_id == note["claim"]]
            for body in lease.bodies:
                self.free_from[body].append(note["at"])
        elif kind == "delete":
            (self.record.consumed if then == "deleted" else self.record.late).append(note["body"])


@dataclass
class Outcome:
    """The result for a queue: the notes, the messages left in it, and when the machine was slow."""

    notes: Notes
    left: dict[str, Any]
    slowness: Slowness

    def history(self) -> History:
        """The notes as a history of a store. A post whose answer was lost counts if one of its messages was seen."""
        ids = {body: id_ for id_, body in self.left.items()}
        ids.update((body, id_) for claim in self.notes.claims for id_, body in claim.messages)
        posts = list(self.notes.posts)
        for producer, bodies in self.notes.maybe_posted:
            if any(body in ids for body in bodies):
                posts.append(Post("work", producer, bodies, [number_of(ids[body]) for body in bodies]))
        posts.sort(key=lambda post: post.sequences)
        return History([Record(posts=posts), self.notes.record], left=list(self.left.values()))

    def free_times(self) -> Iterator[tuple[str, float, float]]:
        """Each body with two times between which its message was certainly free."""
        taken: dict[str, list[Claim]] = defaultdict(list)
        for claim in self.notes.claims:
            for _, body in claim.messages:
                taken[body].append(claim)
        for body, times in self.notes.free_from.items():
            for begin in times:
                # A claim without an answer may have the message. But then no other claim gets it during this run.
                later = [claim for claim in taken[body] if claim.returned is not None and claim.returned > begin]
                if later:
                    first = min(later, key=lambda claim: claim.returned or 0.0)
                    assert first.returned is not None
                    yield body, begin, max(first.asked, first.returned - LEEWAY_SECONDS)


# -- the checks -------------------------------------------------------------------------------------------------------


def no_false_empty_answer(outcome: Outcome) -> None:
    """No claim came back empty although a message was free for more than a second while it waited."""
    empty = [
        (claim, claim.returned) for claim in outcome.notes.claims if claim.returned is not None and claim.id is None
    ]
    for body, since, until in outcome.free_times():
        for claim, returned in empty:
            begin, end = max(since, claim.asked), min(until, returned)
            if end - begin > FREE_SECONDS + LEEWAY_SECONDS:
                slow = outcome.slowness.between(begin, end)
                free = f"{body} was free for {end - begin:.2f} s, {slow:.2f} of them slow, while {claim} waited"
                assert end - begin < FREE_SECONDS + LEEWAY_SECONDS + slow, free


def an_empty_answer_comes_after_the_time_that_was_asked_for(outcome: Outcome) -> None:
    for claim in outcome.notes.claims:
        if claim.returned is not None and claim.id is None:
            assert claim.returned - claim.asked >= claim.wait - 0.01, claim


CHECKS = (
    each_message_is_consumed_once,
    no_message_is_under_two_live_claims,
    each_post_has_its_own_numbers,
    a_claim_is_in_order,
    producers_are_in_order,
)


@contextmanager
def clients(address: tuple[str, int], folder: Path) -> Iterator[list[ClientSeries]]:
    folder.mkdir()
    all_series: list[ClientSeries] = []
    try:
        for group in GROUPS:
            all_series += [ClientSeries("produce", group, n, address, folder) for n in range(group.producers)]
            all_series += [ClientSeries("work", group, n, address, folder) for n in range(group.workers)]
        yield all_series
    finally:
        for series in all_series:
            series.process.kill()
            series.process.wait()


def has_shown_all(all_series: list[ClientSeries]) -> bool:
    """Whether everything has happened that the test is about.

    On the quiet queue one claim has timed out and another has got a message, and an answer on the busy queue was
    lost.
    """
    quiet, busy = Notes(), Notes()
    for series in all_series:
        if series.group.queue == "quiet":
            quiet.read(series)
        else:
            # The last note of a running client may have no answer yet.
            busy.read(series, only_killed=True)
    return was_in_vain(quiet) and was_ended_by_a_message(quiet) and has_lost_answers(busy)


def has_lost_answers(notes: Notes) -> bool:
    return bool(notes.maybe_posted) or any(claim.returned is None for claim in notes.claims)


def was_in_vain(notes: Notes) -> bool:
    return any(claim.id is None and claim.returned is not None for claim in notes.claims)


def was_ended_by_a_message(notes: Notes) -> bool:
    return any(claim.id and claim.returned and claim.returned - claim.asked > 0.2 for claim in notes.claims)


def kill_clients_and_workers(service: Service, all_series: list[ClientSeries]) -> int:
    """Kill a client, or a worker of the service, twice a second; returns how many clients were killed."""
    kills, end = 0, time.monotonic() + SECONDS
    for kind in itertools.cycle(KILLED):
        time.sleep(KILL_SECONDS)
        if time.monotonic() > end and (has_shown_all(all_series) or time.monotonic() > end + MOST_SECONDS):
            return kills
        if kind == "service":
            service.kill_worker()
        else:
            random.choice([series for series in all_series if series.role == kind and series.is_killed]).kill()
            kills += 1
    raise AssertionError


def run(service: Service, folder: Path) -> tuple[dict[str, Outcome], int]:
    """Run the clients. Returns the outcome of each queue, and how many clients were killed."""
    server = service.server
    with closing(Client(server, PROJECT, Recorder())) as client:
        slowness = Slowness(client)
        slowness.start()
        try:
            with clients((server.host, server.port), folder / "notes") as all_series:
                kills = kill_clients_and_workers(service, all_series)
                for series in all_series:
                    series.process.send_signal(signal.SIGTERM)
                for series in all_series:
                    assert series.end() in (0, -signal.SIGTERM), series.files[-1]
        finally:
            slowness.end()
        # The last messages may be delayed.
        time.sleep(waiting_client.DELAY)
        return {group.queue: outcome_of(client, group, all_series, slowness) for group in GROUPS}, kills


def outcome_of(client: Client, group: Group, all_series: list[ClientSeries], slowness: Slowness) -> Outcome:
    notes = Notes()
    for series in all_series:
        if series.group is group:
            notes.read(series)
    return Outcome(notes, all_bodies(client, group.queue), slowness)


@each_store
def test_waiting_claims_lose_nothing_and_are_not_empty_while_a_message_is_free(
    tmp_path: Path, service_on: Service
) -> None:
    began = time.monotonic()
    outcomes, kills = run(service_on, tmp_path)
    for queue, outcome in outcomes.items():
        assert outcome.notes.wrong == []
        history = outcome.history()
        for check in CHECKS:
            check(history)
        no_false_empty_answer(outcome)
        an_empty_answer_comes_after_the_time_that_was_asked_for(outcome)
        report(queue, outcome)
    print(f"{kills} clients killed; {time.monotonic() - began:.1f} s in all")
    quiet = outcomes["quiet"].notes
    assert was_in_vain(quiet)
    assert was_ended_by_a_message(quiet)
    assert has_lost_answers(outcomes["busy"].notes)


def report(queue: str, outcome: Outcome) -> None:
    """Print the figures of a run, for ``pytest -s``."""
    delays = sorted(
        1000 * (claim.returned - begin)
        for body, begin, _ in outcome.free_times()
        for claim in outcome.notes.claims
        if claim.returned is not None
        and claim.asked < begin < claim.returned
        and any(b == body for _, b in claim.messages)
    )
    notes = outcome.notes
    empty = sum(claim.id is None and claim.returned is not None for claim in notes.claims)
    lost = sum(claim.returned is None for claim in notes.claims)
    print(
        f"{queue}: {len(notes.posts)} posts acknowledged, {len(notes.maybe_posted)} not; {len(notes.claims)} claims, "
        f"{empty} empty, {lost} not answered; {len(outcome.left)} messages left"
    )
    if len(delays) > 1:
        print(f"  free to waiting claim: {statistics.median(delays):.0f} ms median, {delays[-1]:.0f} ms most")


# -- the checks find faults -------------------------------------------------------------------------------------------


class Quick(Slowness):
    def __init__(self) -> None:
        """A machine that was never slow."""

    def between(self, begin: float, end: float) -> float:
        return 0.0


def outcome_with(free: float, taken: float) -> Outcome:
    """A message that was free from ``free`` to ``taken``, while a claim waited from 10 to 13 and came back empty."""
    taker = Claim(taken, 1, taken + 0.01, "c", [("a" * 35 + "1", "x")])
    notes = Notes(claims=[Claim(10.0, 3, 13.0, None, []), taker])
    notes.free_from["x"].append(free)
    return Outcome(notes, {}, Quick())


@pytest.mark.parametrize(("free", "taken"), [(10.5, 11.4), (12.0, 20.0), (5.0, 10.9), (14.0, 20.0)])
def test_a_message_that_was_free_for_a_moment_is_no_fault(free: float, taken: float) -> None:
    no_false_empty_answer(outcome_with(free, taken))


@pytest.mark.parametrize(("free", "taken"), [(10.5, 12.0), (11.0, 20.0), (5.0, 11.5), (5.0, 20.0)])
def test_the_check_finds_a_false_empty_answer(free: float, taken: float) -> None:
    with pytest.raises(AssertionError):
        no_false_empty_answer(outcome_with(free, taken))


def test_the_check_finds_an_empty_answer_that_came_too_early() -> None:
    with pytest.raises(AssertionError):
        an_empty_answer_comes_after_the_time_that_was_asked_for(
            Outcome(Notes(claims=[Claim(10.0, 3, 12.0, None, [])]), {}, Quick())
        )
