# SPDX-License-Identifier: Apache-2.0
"""The primary steps down, and is killed, while clients post, read and consume: nothing acknowledged is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests import servers
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import ClientError, StoreUnavailable
from zaqar.storage.mongodb.store import MongoMessageStore

WRITERS = 4
MOST_SECONDS = 5.0


@dataclass
class Clients:
    """Clients that go on after errors, and a record of their answers."""

    work: QueueClient
    news: QueueClient
    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    maybe_consumed: list[str] = field(default_factory=list)
    read: list[tuple[int, str]] = field(default_factory=list)
    slowest_refusal: float = 0.0
    written: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def attempt(self, step: Callable[[], object]) -> bool:
        begun = time.monotonic()
        try:
            step()
        except StoreUnavailable:
            self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - begun)
            return False
        return True

    def write(self, writer: int) -> None:
        number = 0
        while not self.ended.is_set():
            texts = [f"{writer}.{number}.{k}" for k in range(3)]
            for orders in (self.work, self.news):
                told = self.attempt(partial(orders.post, *texts, client=str(writer)))
                (self.acknowledged if told else self.unknown).extend(f"{orders.queue.name}:{text}" for text in texts)
            number += 1

    def consume(self) -> None:
        while not self.ended.is_set():
            self.attempt(self._consume_some)

    def _consume_some(self) -> None:
        claim_id, taken = self.work.claim(5)
        if not taken:
            time.sleep(0.01)
            return
        try:
            self.work.delete_many(*(message.sequence for message in taken), claim_ids=[claim_id])
        except StoreUnavailable:
            self.maybe_consumed += bodies(taken)
            raise
        except ClientError:  # The client repeated it after a lost answer, so it was deleted.
            self.maybe_consumed += bodies(taken)
            return
        self.consumed += bodies(taken)

    def follow(self) -> None:
        marker = 0
        while True:
            last = self.written.is_set()
            pages: list[list[tuple[int, str]]] = []

            def look(after: int = marker, pages: list[list[tuple[int, str]]] = pages) -> None:
                page = self.news.listing(after, 7)
                pages.append([(message.sequence, message.body.decode()) for message in page])

            if self.attempt(look) and pages[0]:
                self.read += pages[0]
                marker = pages[0][-1][0]
            elif pages and last:
                return


def kill_and_restart(members: servers.MongoSet) -> None:
    old = members.await_primary()
    old.kill()
    members.await_primary()
    time.sleep(1)
    old.start()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [servers.MongoSet.step_down, kill_and_restart])
def test_a_fail_over_loses_nothing(own_members: servers.MongoSet, fault: Callable[[servers.MongoSet], None]) -> None:
    store = MongoMessageStore.from_settings({"uri": own_members.uri})
    clients = Clients(QueueClient(store).beside("work"), QueueClient(store).beside("news"))

    def break_it() -> None:
        try:
            time.sleep(1)
            fault(own_members)
            before = len(clients.acknowledged)
            end = time.monotonic() + 30
            while len(clients.acknowledged) < before + 60:
                assert time.monotonic() < end, "the store does not recover"
                time.sleep(0.05)
        finally:
            clients.ended.set()

    def write_all() -> None:
        try:
            at_once(break_it, clients.consume, *(partial(clients.write, writer) for writer in range(WRITERS)))
        finally:
            clients.written.set()

    at_once(write_all, clients.follow)
    assert clients.slowest_refusal <= MOST_SECONDS
    nothing_was_lost(clients)
    store.close()


def nothing_was_lost(clients: Clients) -> None:
    told = Counter(clients.acknowledged)
    possible = told + Counter(clients.unknown)
    there = clients.news.listing()
    found = Counter(f"news:{text}" for text in bodies(there))
    assert not Counter({text: n for text, n in told.items() if text.startswith("news:")}) - found, "lost"
    assert not found - possible, "doubled, or never posted"
    assert clients.read == [(message.sequence, message.body.decode()) for message in there]
    assert [message.sequence for message in there] == list(range(1, len(there) + 1))
    assert clients.news.stats().total == len(there)
    left = Counter(f"work:{text}" for text in bodies(clients.work.listing(claimed=True)))
    consumed = Counter(f"work:{text}" for text in clients.consumed)
    maybe = Counter(f"work:{text}" for text in clients.maybe_consumed)
    assert max(consumed.values(), default=1) == 1, "consumed twice"
    assert not (left & consumed), "deleted messages are back"
    posted = Counter({text: n for text, n in told.items() if text.startswith("work:")})
    assert not posted - (left + consumed + maybe), "lost"
    assert not (left + consumed) - possible, "doubled, or never posted"
