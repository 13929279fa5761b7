# SPDX-License-Identifier: Apache-2.0
"""Promises 1, 4, 6 and 9 while processes die: kill -9 in the middle of their work, while others go on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import random
from typing import Any

import pytest

from tests.clock import START
from tests.conformance import killed_processes
from tests.conformance.drivers import Driver
from tests.conformance.marks import only_shared
from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.processes import FORK_SERVER
from tests.conformance.queue_client import QueueClient, bodies, new_queue
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DONE
from zaqar.storage.base import MessageStore

pytestmark = only_shared
ROUNDS = 2
PATIENCE = 60.0
"""Seconds until a process that writes nothing counts as stuck. Far more than it takes, also on a busy machine."""


class Child:
    """A process that notes what was acknowledged, until it is killed."""

    def __init__(self, target: Callable[..., None], *arguments: Any, path: Path) -> None:
        self.path = path
        path.touch()
        self.process = FORK_SERVER.Process(target=target, args=(*arguments, str(path)), daemon=True)
        self.process.start()

    def notes(self) -> list[str]:
        return self.path.read_text().splitlines()

    def wait_for(self, lines: int) -> None:
        """Until it has noted so many lines; that it does is what shows that nobody holds it up."""
        end = time.monotonic() + PATIENCE
        while len(self.notes()) < lines:
            assert self.process.is_alive(), "it ended by itself"
            assert time.monotonic() < end, "it does not get on"
            time.sleep(0.005)

    def kill(self) -> list[str]:
        self.process.kill()
        self.process.join()
        return self.notes()


@contextmanager
def killed_in_the_end(*children: Child) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.process.close()


def killed_one_by_one(children: list[Child]) -> list[list[str]]:
    """Kill each in the middle of its work, wherever that is; what they noted. The others get on after each kill."""
    for child in children:
        child.wait_for(3)
    notes = []
    while children:
        time.sleep(random() * 0.05)
        notes.append(children[0].kill())
        children = children[1:]
        for witness in children:
            witness.wait_for(len(witness.notes()) + 2)
    return notes


def wait_for_the_server(driver: Driver, orders: QueueClient) -> None:
    """Until nothing changes any more: what a process asked a server for is done though the process is killed."""
    if driver.server is None:
        return
    quiet, seen = 0, orders.stats()
    while quiet < 4:
        time.sleep(0.4)
        before, seen = seen, orders.stats()
        quiet = quiet + 1 if seen == before else 0


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_posts_acknowledged_to_a_killed_writer_are_stored_once_and_whole(
    driver: Driver, address: str, orders: QueueClient, tmp_path: Path, round_: int
) -> None:
    names = ["victim", "second-victim", "witness"]
    children = [
        Child(killed_processes.post_on, driver.name, address, orders.queue, name, path=tmp_path / name)
        for name in names
    ]
    with killed_in_the_end(*children):
        acknowledged = dict(zip(names, killed_one_by_one(children), strict=True))
    wait_for_the_server(driver, orders)
    after = orders.post("after")
    seen = orders.listing()
    assert [message.sequence for message in seen] == list(range(1, len(seen) + 1))
    assert after == [len(seen)]
    assert seen.pop().body == b"after"
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for message in seen:
        writer, n, draft, padding = message.body.decode().split(".")
        assert padding == killed_processes.PADDING
        found[writer, int(n)].append(draft)
    assert all(drafts == [str(k) for k in range(killed_processes.DRAFTS)] for drafts in found.values()), (
        "part of a post"
    )
    for writer, notes in acknowledged.items():
        there = sorted(n for name, n in found if name == writer)
        told = [int(note) for note in notes]
        assert there[: len(told)] == told
        assert len(there) <= len(told) + 1


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_messages_that_a_killed_worker_deleted_stay_deleted_and_the_others_are_stored(
    driver: Driver, address: str, orders: QueueClient, tmp_path: Path, round_: int
) -> None:
    total = 40_000
    # In several posts: one of all would keep a busy server longer than the driver waits.
    for first in range(1, total + 1, 1000):
        orders.post(*(str(n) for n in range(first, first + 1000)), ttl=86_400)
    gate = FORK_SERVER.Barrier(4)
    children = [
        Child(killed_processes.consume_on, driver.name, address, orders.queue, gate, path=tmp_path / str(n))
        for n in range(4)
    ]
    with killed_in_the_end(*children):
        notes = [note for notes in killed_one_by_one(children) for note in notes]
    wait_for_the_server(driver, orders)
    deleted = [int(number) for note in notes if note[0] == "!" for number in note[1:].split(",")]
    asked = [[int(number) for number in note[1:].split(",")] for note in notes if note[0] == "?"]
    there = {int(message.body) for message in orders.listing(claimed=True)}
    assert len(deleted) == len(set(deleted))
    assert not set(deleted) & there
    gone = set(range(1, total + 1)) - there
    for batch in asked:
        assert len(gone.intersection(batch)) in (0, len(batch)), "part of a delete"
    assert gone <= {number for batch in asked for number in batch}
    held = [message for message in orders.listing(claimed=True) if message.claim_id is not None]
    assert len(held) <= killed_processes.CLAIMED * len(children)
    orders.clock.advance(3600)
    assert {int(message.body) for message in orders.listing()} == there


def test_a_purge_that_is_killed_has_removed_all_or_nothing(
    driver: Driver, address: str, orders: QueueClient, tmp_path: Path
) -> None:
    for round_ in range(2):
        child = Child(
            killed_processes.refill_on, driver.name, address, orders.queue, "victim", path=tmp_path / f"{round_}"
        )
        with killed_in_the_end(child):
            child.wait_for(6)
            time.sleep(random() * 0.05)
            last = child.kill()[-1]
        wait_for_the_server(driver, orders)
        left = len(orders.list_everything())
        assert left in (0, 300)
        assert orders.stats().total == left
        orders.purge()
        assert orders.stats().total == 0
        assert last in ("filled", "purged")


def test_a_store_works_after_all_other_processes_were_killed(
    driver: Driver, address: str, messages: MessageStore, tmp_path: Path
) -> None:
    """Killed at the first line, while they all contend: no lock is left behind."""
    queue = new_queue()
    messages.queues.open(queue=queue, now=START)
    children = [
        Child(killed_processes.post_on, driver.name, address, queue, f"w{n}", path=tmp_path / f"{n}") for n in range(4)
    ]
    with killed_in_the_end(*children):
        for child in children:
            child.wait_for(1)
    orders = QueueClient(messages, queue=queue)
    wait_for_the_server(driver, orders)
    before = len(orders.listing())
    assert orders.post("after") == [before + 1]
    assert bodies(orders.listing(before)) == ["after"]
    orders.drop()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_deliveries_of_killed_notifiers_are_delivered_by_others(
    driver: Driver, address: str, notifier: NotifierClient, tmp_path: Path, round_: int
) -> None:
    """Each message that was acknowledged comes to each subscriber, and what was settled does not come again."""
    orders = notifier.open_queue()
    backlogs = [SubscriptionBacklog(notifier, orders.queue.uid) for _ in range(2)]
    ids = [backlog.subscription_id for backlog in backlogs]
    children = [
        Child(killed_processes.notify_on, driver.name, address, orders.queue, ids, f"n{n}", path=tmp_path / f"{n}")
        for n in range(3)
    ]
    with killed_in_the_end(*children):
        notes = [note.split() for notes in killed_one_by_one(children) for note in notes]
    wait_for_the_server(driver, orders)
    told = {int(number) for what, *numbers in notes if what == "posted" for number in numbers}
    delivered = [(int(words[1]), words[2]) for words in notes if words[0] == "delivered"]
    assert len(delivered) == len(set(delivered))
    notifier.clock.advance(LEASE)
    for posted in notifier.take_all_posted():
        # What a stored position says was done by whoever was killed.
        made = deliveries_of(posted, *ids)[posted.position.message * len(ids) :]
        assert notifier.expand(posted, made)
    rest = [(each.number, each.subscription_id) for each in notifier.take_all()]
    there = {message.sequence for message in orders.listing()}
    assert told <= there
    for backlog in backlogs:
        assert {each.number for each in backlog.listing()} == there
        assert {number for number, id_ in delivered if id_ == backlog.subscription_id} <= {
            each.number for each in backlog.listing(DONE)
        }
    assert len(rest) == len(set(rest))
    assert not set(rest) & set(delivered)
    for backlog in backlogs:
        assert backlog.counts() == (len([each for each in rest if each[1] == backlog.subscription_id]), 0)


def test_subscriptions_dropped_by_killed_processes_stay_dropped_and_others_keep_their_deliveries(
    driver: Driver, address: str, notifier: NotifierClient, tmp_path: Path
) -> None:
    """Nobody gets a delivery of a dropped subscription, whoever died while it was dropped, expanded or swept."""
    orders = notifier.open_queue()
    living = SubscriptionBacklog(notifier, orders.queue.uid)
    child = partial(Child, killed_processes.drop_on, driver.name, address, orders.queue, living.subscription_id)
    children = [child(f"n{n}", path=tmp_path / f"{n}") for n in range(2)]
    with killed_in_the_end(*children):
        dropped = {own for notes in killed_one_by_one(children) for own in notes}
    wait_for_the_server(driver, orders)
    notifier.clock.advance(LEASE)
    for posted in notifier.take_all_posted():
        assert notifier.expand(posted, deliveries_of(posted, living.subscription_id, *sorted(dropped)[:3]))
    taken = notifier.take_all()
    assert not dropped & {each.subscription_id for each in taken}
    assert {each.number for each in taken if each.subscription_id == living.subscription_id} == {
        message.sequence for message in orders.listing()
    }
    sweep_clean(notifier.store, notifier.now)
    assert all(SubscriptionBacklog(notifier, orders.queue.uid, own).listing() == [] for own in dropped)
    orders.drop()
    notifier.clock.advance(LEASE)
    assert notifier.take_all() == notifier.take_all_posted() == []
    sweep_clean(notifier.store, notifier.now)
    assert living.listing() == []
