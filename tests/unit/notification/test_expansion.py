# SPDX-License-Identifier: Apache-2.0
"""Large posts: each is expanded piece by piece, in turns with others, and by any notifier."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.unit.notification.harness import QUEUE, UID, Harness, ScriptedSender, hang, until
from tests.unit.notification.test_pieces import COSTLY
from zaqar.errors import StoreUnavailable
from zaqar.model import DONE, NOT_EXPANDED, Delivery, Draft, Posted, PostPosition, Queue, Subscription
from zaqar.notification import expansion, pieces
from zaqar.notification import notifier as notifiers
from zaqar.notification.bounds import Bounds
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.memory.data import MessageData
from zaqar.storage.memory.outbox import MemoryOutbox


@dataclass
class Step:
    """One call of ``expand``."""

    queue_uid: str
    first: int
    begins: PostPosition
    ends: PostPosition | None
    deliveries: Sequence[Delivery]
    stored: bool = False

    @property
    def is_piece(self) -> bool:
        return self.begins != self.ends


class RecordingOutbox(MemoryOutbox):
    """An outbox that records each step, and lets a test act before the step is stored."""

    def __init__(self, data: MessageData) -> None:
        super().__init__(data)
        self.steps: list[Step] = []
        self.before: Callable[[Step], object] = lambda step: None

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        step = Step(posted.queue_uid, posted.first, posted.position, position, deliveries)
        self.before(step)
        step.stored = super().expand(posted=posted, deliveries=deliveries, position=position, until=until)
        self.steps.append(step)
        return step.stored

    def pieces(self, uid: str = UID) -> list[Step]:
        return [step for step in self.steps if step.is_piece and step.stored and step.queue_uid == uid]

    def made(self, uid: str = UID) -> Counter[tuple[str, int]]:
        """How often each delivery was made."""
        return Counter((each.subscription_id, each.number) for piece in self.pieces(uid) for each in piece.deliveries)


class RecordingStore(MemoryMessageStore):
    def __init__(self) -> None:
        super().__init__()
        self.outbox: RecordingOutbox = RecordingOutbox(self.data)


@dataclass
class ManyQueues(Harness):
    """A queue with subscribers s00, s01, ... and a recorder; and other queues, each with one subscriber."""

    store: RecordingStore = field(default_factory=RecordingStore)

    def queue(self, letter: str, project: str | None = None) -> tuple[Queue, Subscription]:
        queue = Queue(letter * 24, project or f"project {letter}", letter, notify=True)
        self.management.queue_records.create(queue=queue)
        self.store.queues.open(queue=queue, now=self.clock())
        subscriber = self.subscribe(letter, queue_uid=queue.uid, project=queue.project, source=queue.name)
        return queue, subscriber

    def post_to(self, queue: Queue, *texts: str) -> None:
        drafts = [Draft(b'"%s"' % text.encode(), ttl=300) for text in texts]
        self.store.messages.post(queue=queue, drafts=drafts, client_id="c", now=self.clock())

    def subscribe_many(self, count: int, **changes: Any) -> list[str]:
        return [self.subscribe(f"s{n:02}", **changes).id for n in range(count)]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ManyQueues:
    """Pieces are small, so that few messages make many pieces, and no piece ends because the machine is busy."""
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", 20)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    return ManyQueues()


@pytest.fixture
def killable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notifier that is cut off ends soon."""
    monkeypatch.setattr(notifiers, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(notifiers, "HAND_BACK_SECONDS", 0.1)


def each_once(harness: ManyQueues, subscribers: Sequence[str], numbers: range) -> bool:
    return harness.store.outbox.made() == Counter((id_, number) for id_ in subscribers for number in numbers)


# -- large posts beside small ones -------------------------------------------------------------------------------------


def test_a_large_post_does_not_delay_small_ones(harness: ManyQueues) -> None:
    """The message of another project is sent while a post of 300 pieces gets on by some of them."""

    async def play() -> None:
        harness.subscribe_many(20)
        queue, subscriber = harness.queue("b")
        async with harness.notifier() as notifier:
            harness.post(*range(300))
            notifier.wake()
            await until(lambda: len(harness.store.outbox.pieces()) > 5)
            for n in range(3):
                before = len(harness.store.outbox.pieces())
                harness.post_to(queue, str(n))
                notifier.wake()
                await until(lambda n=n: len(notifier.messages(subscriber.id)) == n + 1)
                assert len(harness.store.outbox.pieces()) - before < 80
            assert len(harness.store.outbox.pieces()) < 300, "it is still under way"
            await until(lambda: not harness.store.data.outbox, 60)
        assert harness.store.outbox.made().keys() == {
            (f"s{n:02}", number) for n in range(20) for number in range(1, 301)
        }

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["prefix", "numeric", "or"])
def test_costly_filters_do_not_delay_other_queues(kind: str) -> None:
    harness = ManyQueues()
    conditions, body, _ = COSTLY[kind]

    async def play() -> None:
        harness.subscribe_many(40, options={"filter": {"a": conditions}})
        queue, subscriber = harness.queue("b")
        async with harness.notifier() as notifier:
            harness.post(*[{"a": body}] * 1000)
            notifier.wake()
            await until(lambda: harness.store.outbox.pieces())
            for n in range(5):
                harness.post_to(queue, str(n))
                notifier.wake()
                await until(lambda n=n: len(notifier.messages(subscriber.id)) == n + 1)
            assert harness.store.outbox.pieces()[-1].ends is not None, "it is still under way"

    asyncio.run(play())


def test_posts_of_several_queues_take_turns(harness: ManyQueues) -> None:
    async def play() -> None:
        queues = [harness.queue(letter)[0] for letter in "bcdef"]
        for queue in queues:
            harness.post_to(queue, *map(str, range(200)))
        async with harness.notifier() as notifier:
            notifier.wake()
            await until(lambda: not harness.store.data.outbox, 60)
        order = [step.queue_uid for step in harness.store.outbox.steps if step.is_piece]
        assert Counter(order) == dict.fromkeys((queue.uid for queue in queues), 10)
        # No post gets far ahead of another one. Pieces that are made at the same time may end in any order.
        for place in range(len(order)):
            done = Counter(order[:place])
            assert max(done.values(), default=0) - min(done[queue.uid] for queue in queues) <= 3

    asyncio.run(play())


def test_projects_take_turns_however_many_queues_one_has(harness: ManyQueues) -> None:
    async def play() -> None:
        many = [harness.queue(letter, "many")[0] for letter in "bcdefg"]
        one, _ = harness.queue("o")
        async with harness.notifier() as notifier:
            # The project of a queue is known after its first post.
            for queue in (*many, one):
                harness.post_to(queue, "first")
            notifier.wake()
            await until(lambda: not harness.store.data.outbox)
            harness.store.outbox.steps.clear()
            for queue in (*many, one):
                harness.post_to(queue, *map(str, range(200)))
            notifier.wake()
            await until(lambda: not harness.store.data.outbox, 60)
        order = [step.queue_uid for step in harness.store.outbox.steps if step.is_piece]
        end = len(order) - order[::-1].index(one.uid)
        assert order.count(one.uid) == 10
        # Besides the first pieces of all it had every other turn.
        assert end <= 2 * 10 + len(many) + 2

    asyncio.run(play())


@pytest.mark.parametrize(("largest", "most"), [(1, 25), (262_144, 25), (2 * 1024 * 1024, 8), (2**40, 4)])
def test_posts_in_memory_are_bounded_in_number_and_bytes(harness: ManyQueues, largest: int, most: int) -> None:
    harness.bounds = Bounds(largest_post=largest)

    async def play() -> None:
        harness.subscribe("s00")
        for _ in range(60):
            harness.post(*range(45))
        async with harness.notifier() as notifier:
            held: list[int] = []
            waiting: list[int] = []

            def look(step: Step) -> None:
                for pump in notifier.pumps:
                    held.append(len(pump._leased_posts))
                    waiting.append(len(pump._leased_posts._begun))

            harness.store.outbox.before = look
            notifier.wake()
            while harness.store.data.outbox:
                # So that posts that were handed back become free.
                harness.clock.advance(1)
                notifier.wake()
                await asyncio.sleep(0.01)
            assert 0 < max(held) <= most
            assert max(waiting) <= most // 2
        assert each_once(harness, ["s00"], range(1, 60 * 45 + 1))

    asyncio.run(play())


# -- several notifiers -------------------------------------------------------------------------------------------------


def test_two_notifiers_on_large_posts_make_each_delivery_once(harness: ManyQueues) -> None:
    async def play() -> None:
        names = harness.subscribe_many(10)
        async with harness.notifier() as one, harness.notifier() as other:
            for _ in range(6):
                harness.post(*range(20))
            for notifier in (one, other):
                notifier.wake()
            await until(lambda: all(len(harness.deliveries(id_, DONE)) == 120 for id_ in names), 60)
            assert each_once(harness, names, range(1, 121))
            sent = Counter((each.subscription, each.message) for each in one.sender.sent + other.sender.sent)
            assert set(sent.values()) == {1}
            assert len(sent) == 1200

    asyncio.run(play())


def test_a_notifier_that_takes_over_goes_on_from_the_stored_position(harness: ManyQueues, killable: None) -> None:
    async def play() -> None:
        names = harness.subscribe_many(10)
        enough = threading.Event()
        async with harness.notifier() as killed:

            def cut(step: Step) -> None:
                if step.is_piece and len(harness.store.outbox.pieces()) == 7:
                    killed.connection.cut = True
                    enough.set()
                    raise StoreUnavailable

            harness.store.outbox.before = cut
            harness.post(*range(60))
            killed.wake()
            await until(enough.is_set)
            harness.store.outbox.before = lambda step: None
            ((_, noted),) = harness.store.data.outbox.items()
            position = noted.posted.position
            assert position == PostPosition("", "s09", 14)
            assert len(harness.store.outbox.pieces()) == 7
            async with harness.notifier() as heir:
                await until(lambda: heir.connection.calls["outbox.take"] >= 2)
                assert len(harness.store.outbox.pieces()) == 7, "the lease is not over"
                harness.clock.advance(6)
                heir.wake()
                await until(lambda: not harness.store.data.outbox)
                assert harness.store.outbox.pieces()[7].begins == position
                assert len(harness.store.outbox.pieces()) == 30
                assert each_once(harness, names, range(1, 61))
                await until(lambda: all(len(harness.deliveries(id_, DONE)) == 60 for id_ in names))
                again = {each.message for each in killed.sender.sent} & {each.message for each in heir.sender.sent}
                # Attempts that were under way at the cut, at most as many as there are reservations.
                assert len(again) <= harness.bounds.most

    asyncio.run(play())


def test_a_late_notifier_stores_and_sends_nothing_that_another_one_has_stored(harness: ManyQueues) -> None:
    """As when the machine stood still between the lease and the piece."""

    async def play() -> None:
        names = harness.subscribe_many(10)
        held_up, go_on = threading.Event(), threading.Event()
        async with harness.notifier() as late:

            def hold(step: Step) -> None:
                if step.is_piece and len(harness.store.outbox.pieces()) == 3 and not held_up.is_set():
                    held_up.set()
                    assert go_on.wait(10)
                elif step.is_piece and len(harness.store.outbox.pieces()) == 6 and not go_on.is_set():
                    # The heir is in the middle. It waits until the late one has had its answer.
                    go_on.set()
                    for _ in range(1000):
                        if any(not each.stored for each in harness.store.outbox.steps):
                            return
                        time.sleep(0.01)
                    raise AssertionError("the late piece was stored")

            harness.store.outbox.before = hold
            harness.post(*range(40))
            late.wake()
            await until(held_up.is_set)
            async with harness.notifier() as heir:
                harness.clock.advance(6)
                heir.wake()
                await until(lambda: not harness.store.data.outbox, 30)
                await until(lambda: all(len(harness.deliveries(id_, DONE)) == 40 for id_ in names))
                sent = Counter((each.subscription, each.message) for each in late.sender.sent + heir.sender.sent)
                # 20 of the first pieces, whose leases were over with the jump of the clock, may be sent by both.
                assert len(sent) == 400
                refused = {
                    each.number for step in harness.store.outbox.steps if not step.stored for each in step.deliveries
                }
                assert refused
                assert not refused & {int(each.message[24:], 16) for each in late.sender.sent}
                (pump,) = late.pumps
                assert len(pump._leased_posts) == 0
                assert late.capacity.reserved == 0
        assert each_once(harness, names, range(1, 41))

    asyncio.run(play())


def test_subscribers_that_come_and_go_between_pieces(harness: ManyQueues, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that exists from before the post to the end gets each message once; a removed one gets no more."""
    monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)
    monkeypatch.setattr("zaqar.notification.subscribers.READ", 3)
    monkeypatch.setattr(pieces, "MOST_OF_A_PAGE", 4)

    async def play() -> None:
        names = harness.subscribe_many(10)
        gone: list[str] = []

        def change(step: Step) -> None:
            n = len(harness.store.outbox.pieces())
            if step.is_piece and n in (2, 5, 8):
                id_ = names[n]
                harness.management.subscriptions.delete(queue_uid=UID, subscription_id=id_)
                gone.append(id_)
            if step.is_piece:
                harness.subscribe(f"s{n % 10:02}+{n}", created=harness.clock() + 1)

        harness.store.outbox.before = change
        async with harness.notifier() as notifier:
            harness.post(*range(50))
            notifier.wake()
            await until(lambda: not harness.store.data.outbox, 30)
        made = harness.store.outbox.made()
        assert set(made.values()) == {1}
        stayed = [id_ for id_ in names if id_ not in gone]
        assert len(stayed) == 7
        assert {key for key in made if key[0] in stayed} == {(id_, n) for id_ in stayed for n in range(1, 51)}
        assert len({key for key in made if key[0] == "s08"}) < 50

    asyncio.run(play())


# -- leases ------------------------------------------------------------------------------------------------------------


def test_leases_are_extended_while_a_post_is_matched(monkeypatch: pytest.MonkeyPatch, killable: None) -> None:
    """Those of deliveries and that of the post: another notifier finds neither, however long the piece takes."""
    monkeypatch.setattr("zaqar.notification.attempts.EXTEND_SECONDS", 0.02)
    monkeypatch.setattr(expansion, "EXTEND_SECONDS", 0.02)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    harness = ManyQueues()
    conditions, body, _ = COSTLY["numeric"]

    async def play() -> None:
        sender = ScriptedSender()
        sender.answers["b"] = hang
        queue, _ = harness.queue("b")
        harness.subscribe_many(40, options={"filter": {"a": conditions}})
        async with harness.notifier(sender) as notifier:
            harness.post_to(queue, "held")
            notifier.wake()
            await until(lambda: notifier.messages("b"))
            harness.post(*[{"a": body}] * 500)
            notifier.wake()
            (noted,) = harness.store.data.outbox.values()
            await until(lambda: noted.due > harness.clock())
            (held,) = harness.store.data.deliveries
            async with harness.notifier() as other:
                for _ in range(4):
                    harness.clock.advance(3)
                    await until(lambda: noted.due == harness.store.data.deliveries[held].due == harness.clock() + 6)
                    other.wake()
                    await asyncio.sleep(0.02)
                assert not harness.store.outbox.pieces()
                assert other.sender.sent == []

    asyncio.run(play())


def test_a_stop_hands_posts_back_at_once(harness: ManyQueues) -> None:
    async def play() -> None:
        names = harness.subscribe_many(20)
        async with harness.notifier() as notifier:
            for _ in range(3):
                harness.post(*range(100))
            notifier.wake()
            await until(lambda: len(harness.store.outbox.pieces()) > 10)
        left = list(harness.store.data.outbox.values())
        assert left
        assert all(noted.due <= harness.clock() for noted in left)
        assert any(noted.posted.position != NOT_EXPANDED for noted in left)
        async with harness.notifier() as heir:
            heir.wake()
            await until(lambda: not harness.store.data.outbox, 60)
        assert each_once(harness, names, range(1, 301))

    asyncio.run(play())


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_post_that_cannot_be_expanded_does_not_delay_others(
    harness: ManyQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        harness.subscribe_many(1, options={"filter": {"n": [1]}})
        queue, subscriber = harness.queue("b")
        bad = harness.store.messages.post(queue=QUEUE, drafts=[Draft(b"{", 300)], client_id="c", now=harness.clock())
        async with harness.notifier() as notifier:
            for n in range(3):
                harness.post_to(queue, str(n))
                notifier.wake()
                await until(lambda n=n: len(notifier.messages(subscriber.id)) == n + 1)
        assert list(harness.store.data.outbox) == [(UID, bad[0])]

    asyncio.run(play())


@pytest.mark.parametrize("which", ["subscriptions.list_after", "outbox.expand"])
def test_a_store_that_is_away_for_a_while_during_a_large_post(
    harness: ManyQueues, which: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)
    away = threading.Event()
    failed: list[str] = []

    def fail_if_away(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            if away.is_set():
                failed.append(which)
                raise StoreUnavailable
            return operation(**arguments)

        return call

    name, method = which.split(".")
    part = getattr(harness.management if name == "subscriptions" else harness.store, name)
    monkeypatch.setattr(part, method, fail_if_away(getattr(part, method)))

    async def play() -> None:
        names = harness.subscribe_many(10)
        async with harness.notifier() as notifier:
            harness.post(*range(50))
            notifier.wake()
            await until(lambda: len(harness.store.outbox.pieces()) > 3)
            away.set()
            await until(lambda: failed)
            await asyncio.sleep(0.1)
            away.clear()
            while harness.store.data.outbox:
                harness.clock.advance(1)
                notifier.wake()
                await asyncio.sleep(0.05)
            await until(lambda: all(len(harness.deliveries(id_, DONE)) == 50 for id_ in names))
        assert each_once(harness, names, range(1, 51))

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.text.count("is away") == 1


def test_deliveries_of_a_piece_that_is_refused_are_not_sent(harness: ManyQueues) -> None:
    async def play() -> None:
        harness.subscribe_many(2)
        async with harness.notifier() as notifier:

            def go_on_elsewhere(step: Step) -> None:
                harness.store.outbox.before = lambda step: None
                ((_, noted),) = harness.store.data.outbox.items()
                noted.posted = replace(noted.posted, position=PostPosition("", "s01", 1))

            harness.store.outbox.before = go_on_elsewhere
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.store.outbox.steps)
            await asyncio.sleep(0.05)
            assert notifier.sender.sent == []
            assert not harness.store.data.deliveries
            await until(lambda: notifier.capacity.reserved == 0)
            assert not notifier.capacity._targets

    asyncio.run(play())
