# SPDX-License-Identifier: Apache-2.0
"""Part ``outbox``: a post is stored with its messages, leased, and expanded into each delivery once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.clock import TICK
from tests.conformance.notifier_client import (
    LEASE,
    NotifierClient,
    SubscriptionBacklog,
    deliveries_of,
    new_subscription_id,
    numbers,
)
from tests.conformance.queue_client import ALL, QueueClient, at_once, bodies, new_queue
from tests.conformance.test_sweep import sweep_clean
from zaqar.errors import StaleQueue
from zaqar.model import DONE, NOT_EXPANDED, DeadLetters, Delivery, Draft, Message, Origin, Posted, PostPosition
from zaqar.storage.base import PIECE_BYTES, PIECE_DELIVERIES


@pytest.fixture
def queue(notifier: NotifierClient) -> QueueClient:
    return notifier.open_queue()


def post(orders: QueueClient, *drafts: Draft, client: str = "producer") -> range:
    return orders.store.messages.post(queue=orders.queue, drafts=drafts, client_id=client, now=orders.now)


def messages_of(posts: list[Posted]) -> list[tuple[str, int]]:
    return [(posted.queue_uid, posted.first + n) for posted in posts for n in range(len(posted.drafts))]


def texts_of(posts: list[Posted]) -> list[str]:
    return [draft.body.decode() for posted in posts for draft in posted.drafts]


# -- what a post leaves -----------------------------------------------------------------------------------------------


def test_the_outbox_has_the_whole_post(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("before")
    notifier.drain()
    drafts = (Draft(b'{"a":  "\xc3\xa9\\u0000"}', 60), Draft(b"1", 2**31, delay=900), Draft(b'""', 1200, delay=1))
    notifier.clock.advance(0.125)
    assert post(queue, *drafts, client="cli\u00e9nt") == range(2, 5)
    assert notifier.take_posted() == [Posted(queue.queue.uid, 2, "cli\u00e9nt", queue.now, drafts)]


def test_the_outbox_has_each_post_once(notifier: NotifierClient, queue: QueueClient) -> None:
    for n in range(3):
        notifier.clock.advance(1)
        queue.post(f"{n}.a", f"{n}.b", client=f"c{n}")
    posts = notifier.take_all_posted()
    assert [(each.first, each.client_id, each.created) for each in posts] == [
        (1, "c0", queue.now - 2),
        (3, "c1", queue.now - 1),
        (5, "c2", queue.now),
    ]
    assert texts_of(posts) == ["0.a", "0.b", "1.a", "1.b", "2.a", "2.b"]


def test_a_queue_without_subscribers_puts_nothing_into_the_outbox(notifier: NotifierClient) -> None:
    quiet = notifier.open_queue(notify=False)
    quiet.post("a", "b")
    assert notifier.take_posted() == []


def test_the_notify_flag_in_force_decides_about_the_outbox(notifier: NotifierClient, queue: QueueClient) -> None:
    """The flag of the queue that the fence let pass is what counts."""
    queue.post("heard")
    with_subscribers = queue.queue
    queue.queue = replace(queue.queue, generation=2, notify=False)
    queue.open()
    queue.post("unheard")
    with pytest.raises(StaleQueue):
        queue.store.messages.post(queue=with_subscribers, drafts=[Draft(b"refused", 60)], client_id="c", now=queue.now)
    queue.queue = replace(queue.queue, generation=3, notify=True)
    queue.open()
    queue.post("heard again")
    assert texts_of(notifier.take_all_posted()) == ["heard", "heard again"]


def test_a_refused_post_is_not_in_the_outbox(notifier: NotifierClient, queue: QueueClient) -> None:
    stale = queue.raise_generation()
    with pytest.raises(StaleQueue):
        queue.store.messages.post(queue=stale, drafts=[Draft(b"1", 60)], client_id="c", now=queue.now)
    queue.drop()
    with pytest.raises(StaleQueue):
        queue.post("a")
    assert notifier.take_posted() == []


@pytest.mark.parametrize(("count", "size"), [(1000, 200), (1, 256 * 1024), (20, 13 * 1024)])
def test_large_posts(notifier: NotifierClient, queue: QueueClient, count: int, size: int) -> None:
    drafts = tuple(Draft(f'"{n:04}{"x" * (size - 6)}"'.encode(), 60) for n in range(count))
    post(queue, *drafts)
    (posted,) = notifier.take_posted()
    assert posted == Posted(queue.queue.uid, 1, "producer", queue.now, drafts)
    subscription_id = new_subscription_id()
    notifier.expand_whole(posted, deliveries_of(posted, subscription_id))
    backlog = SubscriptionBacklog(notifier, queue.queue.uid, subscription_id)
    assert [each.body for each in reversed(backlog.listing())] == [draft.body for draft in drafts]


@pytest.mark.parametrize("fate", ["claim", "delete", "pop", "purge", "expire"])
def test_a_post_stays_in_the_outbox_when_its_messages_are_gone(
    notifier: NotifierClient, queue: QueueClient, fate: str
) -> None:
    queue.post("a", "b", ttl=60)
    if fate == "claim":
        queue.claim()
    elif fate == "delete":
        queue.delete_many(1, 2)
    elif fate == "pop":
        queue.pop()
    elif fate == "purge":
        queue.purge()
    else:
        notifier.clock.advance(600)
    sweep_clean(queue.store, queue.now)
    (posted,) = notifier.take_posted()
    assert texts_of([posted]) == ["a", "b"]
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
    sweep_clean(queue.store, queue.now)
    assert numbers(notifier.take()) == [1, 2]
    assert notifier.take_posted(until=notifier.now) == []


def test_a_purge_leaves_posts_in_the_outbox(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a", "b")
    queue.purge()
    queue.post("c")
    assert messages_of(notifier.take_all_posted()) == [(queue.queue.uid, n) for n in (1, 2, 3)]


# -- leases -----------------------------------------------------------------------------------------------------------


def test_nobody_else_takes_a_post_until_the_lease_ends(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a")
    taken = notifier.take_posted("me")
    assert len(taken) == 1
    notifier.clock.advance(LEASE - TICK)
    assert notifier.take_posted("you") == []
    assert notifier.take_posted("me") == []
    notifier.clock.advance(TICK)
    assert notifier.take_posted("you") == taken
    assert notifier.take_posted("me") == []
    notifier.clock.advance(LEASE)
    assert notifier.take_posted("me") == taken


def test_a_post_with_a_lease_that_ends_now_can_be_taken(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a")
    assert notifier.take_posted("me", until=notifier.now) == notifier.take_posted("you")
    assert notifier.take_posted("me") == []


def test_posts_of_a_queue_are_taken_in_order_in_parts_and_again(notifier: NotifierClient, queue: QueueClient) -> None:
    for n in range(25):
        queue.post(str(n))
    assert texts_of(notifier.take_all_posted(limit=4)) == [str(n) for n in range(25)]
    notifier.clock.advance(LEASE)
    again = notifier.take_posted("you")
    assert texts_of(again) == [str(n) for n in range(len(again))]


def test_a_take_is_about_as_large_as_it_was_asked_for(notifier: NotifierClient, queue: QueueClient) -> None:
    other = notifier.open_queue()
    for _ in range(30):
        queue.post("a")
        other.post("b")
    taken = 0
    while some := notifier.take_posted(limit=10):
        assert len(some) <= 20
        taken += len(some)
    assert taken == 60


def test_posts_behind_expanded_ones_are_taken(notifier: NotifierClient, queue: QueueClient) -> None:
    for n in range(10):
        queue.post(str(n))
    taken = notifier.take_all_posted("me")
    for posted in (taken[0], taken[4], taken[9]):
        notifier.expand(posted)
    queue.post("10")
    assert texts_of(notifier.take_all_posted("you")) == ["10"]
    notifier.clock.advance(LEASE)
    assert texts_of(notifier.take_all_posted("you")) == ["1", "2", "3", "5", "6", "7", "8", "10"]


def test_a_queue_with_many_posts_does_not_delay_other_queues(notifier: NotifierClient, queue: QueueClient) -> None:
    for n in range(200):
        queue.post(str(n))
    others = [notifier.open_queue() for _ in range(5)]
    for other in others:
        other.post("a")
    posts = [posted for _ in range(3) for posted in notifier.take_posted(limit=10)]
    assert {other.queue.uid for other in others} <= {posted.queue_uid for posted in posts}
    assert len(notifier.take_all_posted()) == 205 - len(posts)


def test_posts_of_more_queues_than_a_take_returns(notifier: NotifierClient) -> None:
    queue_clients = [notifier.open_queue() for _ in range(20)]
    for n in range(3):
        for orders in queue_clients:
            orders.post(str(n))
    posts = notifier.take_all_posted(limit=7)
    assert len(posts) == 60
    for orders in queue_clients:
        assert texts_of([each for each in posts if each.queue_uid == orders.queue.uid]) == ["0", "1", "2"]


def test_queues_that_were_empty_for_a_while_are_found_again(notifier: NotifierClient, queue: QueueClient) -> None:
    for n in range(5):
        assert notifier.take_posted() == []
        queue.post(str(n))
        notifier.clock.advance(1)
        (posted,) = notifier.take_posted()
        notifier.expand(posted)
        notifier.clock.advance(3600)
    assert notifier.take_posted() == []


# -- expand -----------------------------------------------------------------------------------------------------------


def test_a_post_becomes_a_delivery_for_each_message_and_subscriber(
    notifier: NotifierClient, queue: QueueClient
) -> None:
    notifier.clock.advance(0.25)
    post(queue, Draft(b"1", 60), Draft(b'"late"', 600, delay=30), client="someone")
    (posted,) = notifier.take_posted()
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    other = backlog.beside()
    made = deliveries_of(posted, backlog.subscription_id, other.subscription_id)
    notifier.expand(posted, made)
    for each in (backlog, other):
        mine = [delivery for delivery in made if delivery.subscription_id == each.subscription_id]
        assert each.listing() == mine[::-1]
        assert [each.get(number) for number in (1, 2)] == mine
        assert each.counts() == (2, 0)
    assert sorted(numbers(notifier.take())) == [1, 1]
    notifier.clock.advance(30 - TICK)
    assert sorted(numbers(notifier.take())) == [1, 1], "the leases are over, the delay is not"
    notifier.clock.advance(TICK)
    assert sorted(numbers(notifier.take())) == [1, 1, 2, 2][2:]


def test_a_post_without_a_subscriber_is_forgotten(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a")
    (posted,) = notifier.take_posted()
    notifier.expand(posted)
    notifier.clock.advance(3600)
    assert notifier.take_posted() == []


def test_a_delivery_that_is_stored_already_is_left_as_it_is(notifier: NotifierClient, queue: QueueClient) -> None:
    """Whatever became of it meanwhile."""
    queue.post(*map(str, range(6)))
    (posted,) = notifier.take_posted("me")
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id)
    assert notifier.expand(posted, made[:4], to=STARTED)
    sent, failed, held, _ = notifier.take("me", until=notifier.now + 60)
    notifier.settle_as(DONE, [sent])
    notifier.retry_at(notifier.now + 60, [failed])
    stored = [backlog.get(number) for number in range(1, 5)]
    notifier.clock.advance(LEASE)
    (again,) = notifier.take_posted("you")
    assert again == replace(posted, position=STARTED)
    assert notifier.expand(again, [replace(each, body=b"other") for each in made[:4]] + made[4:5], to=FURTHER)
    assert [backlog.get(number) for number in range(1, 5)] == stored
    assert notifier.expand(replace(posted, position=FURTHER), made)
    assert [backlog.get(number) for number in range(1, 5)] == stored
    assert numbers(backlog.listing()) == [6, 5, 4, 3, 2, 1]
    notifier.clock.advance(LEASE)
    assert notifier.take_posted("you") == []
    assert backlog.get(3) == replace(held, owner="me")


def test_an_expansion_of_a_forgotten_post_changes_nothing(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a", "b")
    (posted,) = notifier.take_posted()
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id)
    notifier.expand(posted, made[:1])
    notifier.discard(notifier.take())
    for to in (STARTED, posted.position, None):
        assert not notifier.expand(posted, made, to=to)
        assert backlog.listing() == []
    unknown = replace(posted, queue_uid=notifier.open_queue().queue.uid)
    assert not notifier.expand(unknown, deliveries_of(unknown, backlog.subscription_id))
    assert notifier.take() == []
    queue.post("c")
    assert texts_of(notifier.take_posted()) == ["c"]


def test_only_the_post_that_was_expanded_is_forgotten(notifier: NotifierClient, queue: QueueClient) -> None:
    other = notifier.open_queue()
    for orders in (queue, other):
        orders.post("a")
        orders.post("b")
    for posted in notifier.take_all_posted():
        if (posted.queue_uid, posted.first) != (other.queue.uid, 2):
            notifier.expand(posted)
    notifier.clock.advance(LEASE)
    assert messages_of(notifier.take_all_posted()) == [(other.queue.uid, 2)]


def test_deliveries_can_be_stored_with_a_lease(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a", "b")
    (posted,) = notifier.take_posted("me")
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id, owner="me", due=notifier.now + LEASE)
    notifier.expand(posted, made)
    assert notifier.take("you") == []
    notifier.settle_as(DONE, made[:1])
    assert backlog.get(1) == replace(made[0], owner=None, state=DONE, due=notifier.now, keep_until=notifier.now + 3600)
    notifier.clock.advance(LEASE)
    assert numbers(notifier.take("you")) == [2]
    notifier.settle_as(DONE, made[1:])
    assert backlog.counts() == (1, 0)


def test_a_post_with_many_deliveries_is_expanded(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post(*map(str, range(400)))
    (posted,) = notifier.take_posted()
    backlogs = [SubscriptionBacklog(notifier, queue.queue.uid) for _ in range(5)]
    notifier.expand_whole(posted, deliveries_of(posted, *(backlog.subscription_id for backlog in backlogs)))
    for backlog in backlogs:
        assert numbers(backlog.listing()) == list(range(400, 0, -1))
        assert backlog.counts() == (400, 0)
    assert len(notifier.take_all()) == 2000


# -- pieces -----------------------------------------------------------------------------------------------------------

STARTED = PostPosition("", "5" * 24, 2)
FURTHER = PostPosition("5" * 24, "a" * 24, 1)

POSITIONS = [
    STARTED,
    FURTHER,
    PostPosition("f" * 24, "", 0),
    PostPosition("", "\U0010ffff", 2**31),
    PostPosition("a:b|c", '"]\\', 0),
]


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_a_piece_is_stored_with_the_position_it_leads_to(
    notifier: NotifierClient, queue: QueueClient, position: PostPosition
) -> None:
    queue.post("a", "b", "c")
    (posted,) = notifier.take_posted()
    assert posted.position == NOT_EXPANDED
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id)
    assert notifier.expand(posted, made[:2], to=position)
    assert backlog.listing() == made[1::-1]
    notifier.clock.advance(LEASE)
    (again,) = notifier.take_posted()
    assert again == replace(posted, position=position)
    assert notifier.expand(again, made[2:])
    assert backlog.listing() == made[::-1]
    notifier.clock.advance(LEASE)
    assert notifier.take_posted() == []


@pytest.mark.parametrize(
    "late",
    [NOT_EXPANDED, STARTED._replace(message=1), STARTED._replace(through=""), STARTED._replace(after="4"), FURTHER],
    ids=str,
)
@pytest.mark.parametrize("to", [STARTED, FURTHER, None], ids=str)
def test_a_piece_from_another_position_changes_nothing(
    notifier: NotifierClient, queue: QueueClient, late: PostPosition, to: PostPosition | None
) -> None:
    queue.post("a", "b", "c")
    (posted,) = notifier.take_posted()
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id)
    assert notifier.expand(posted, made[:1], to=STARTED)
    assert not notifier.expand(replace(posted, position=late), made, to=to, until=notifier.now + 2 * LEASE)
    assert not notifier.expand(replace(posted, position=late), to=to, until=notifier.now)
    assert backlog.listing() == made[:1]
    assert notifier.take_posted() == []
    notifier.clock.advance(LEASE)
    assert notifier.take_posted() == [replace(posted, position=STARTED)]


def test_each_piece_moves_the_end_of_the_lease(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a", "b", "c")
    (posted,) = notifier.take_posted("me")
    for message in (1, 2, 3):
        notifier.clock.advance(LEASE - TICK)
        position = PostPosition("", "5" * 24, message)
        assert notifier.expand(posted, to=position)
        posted = replace(posted, position=position)
        notifier.clock.advance(TICK)
        assert notifier.take_posted("you") == []
    notifier.clock.advance(LEASE - 2 * TICK)
    assert notifier.take_posted("you") == []
    notifier.clock.advance(TICK)
    assert notifier.take_posted("you") == [posted]


def test_a_lease_is_moved_without_a_piece(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a")
    (posted,) = notifier.take_posted("me")
    notifier.clock.advance(LEASE - TICK)
    assert notifier.expand(posted, to=posted.position, until=notifier.now + 60)
    notifier.clock.advance(60 - TICK)
    assert notifier.take_posted("you") == []
    notifier.clock.advance(TICK)
    assert notifier.take_posted("you") == [posted]
    # Also to an earlier one: so a post is handed back.
    assert notifier.expand(posted, to=posted.position, until=notifier.now)
    assert notifier.take_posted("me") == [posted]


def test_a_notifier_that_takes_over_continues_and_the_late_one_stops(
    notifier: NotifierClient, queue: QueueClient
) -> None:
    queue.post(*map(str, range(6)))
    (mine,) = notifier.take_posted("me")
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(mine, backlog.subscription_id)
    assert notifier.expand(mine, made[:2], to=STARTED)
    mine = replace(mine, position=STARTED)
    notifier.clock.advance(LEASE)
    (yours,) = notifier.take_posted("you")
    assert yours == mine
    # Nobody has gone on yet: the late one may do so, and then the other one is late.
    assert notifier.expand(mine, made[2:4], to=FURTHER)
    assert not notifier.expand(yours, made[2:5], to=FURTHER)
    assert not notifier.expand(yours, made[2:])
    assert numbers(backlog.listing()) == [4, 3, 2, 1]
    assert notifier.expand(replace(mine, position=FURTHER), made[4:])
    assert numbers(backlog.listing()) == [6, 5, 4, 3, 2, 1]


def test_the_deliveries_of_every_piece_may_be_leased(notifier: NotifierClient, queue: QueueClient) -> None:
    queue.post("a", "b")
    (posted,) = notifier.take_posted("me")
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = deliveries_of(posted, backlog.subscription_id, owner="me", due=notifier.now + LEASE)
    assert notifier.expand(posted, made[:1], to=STARTED)
    assert notifier.take("you") == []
    notifier.discard(made[:1])
    assert notifier.expand(replace(posted, position=STARTED), made[1:])
    assert backlog.listing() == made[1:]


@pytest.mark.parametrize(("count", "size"), [(PIECE_DELIVERIES, 100), (16, PIECE_BYTES // 16), (1, PIECE_BYTES + 1)])
def test_the_largest_piece(notifier: NotifierClient, queue: QueueClient, count: int, size: int) -> None:
    queue.post("a")
    (posted,) = notifier.take_posted()
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    made = [replace(backlog.new(n), body=b"1" * size) for n in range(1, count + 1)]
    assert notifier.expand(posted, made, to=STARTED)
    assert backlog.listing() == made[::-1]
    assert notifier.expand(replace(posted, position=STARTED))


def test_concurrent_notifiers_store_each_piece_of_a_post_once(notifier: NotifierClient, queue: QueueClient) -> None:
    """Each goes on from where the post is, whoever brought it there: each piece is stored by exactly one of them."""
    pieces, owners = 10, 4
    backlog = SubscriptionBacklog(notifier, queue.queue.uid)
    posted_at = queue.post(*map(str, range(pieces)))
    (posted,) = notifier.take_posted()
    made = deliveries_of(posted, backlog.subscription_id)
    stored: dict[str, list[int]] = {f"owner-{n}": [] for n in range(owners)}

    def expand_on(owner: str) -> None:
        for n in range(pieces):
            here = PostPosition("", "5" * 24 if n else "", n)
            there = PostPosition("", "5" * 24, n + 1) if n + 1 < pieces else None
            mine = [replace(made[n], client_id=owner)]
            if notifier.expand(replace(posted, position=here), mine, to=there):
                stored[owner].append(made[n].number)

    at_once(*(partial(expand_on, owner) for owner in stored))
    notifier.clock.advance(LEASE)
    left = notifier.take_posted()
    by_whom = {each.number: each.client_id for each in backlog.listing()}
    assert {number: owner for owner, some in stored.items() for number in some} == by_whom
    assert sum(map(len, stored.values())) == len(by_whom)
    # One that was too late for a piece was early for none: the post is expanded to the end.
    assert left == []
    assert sorted(by_whom) == list(posted_at)


# -- several at a time ------------------------------------------------------------------------------------------------


def test_concurrent_takes_never_return_the_same_post(notifier: NotifierClient) -> None:
    queue_clients = [notifier.open_queue() for _ in range(4)]
    for n in range(30):
        for orders in queue_clients:
            orders.post(str(n))
    taken: dict[str, list[Posted]] = {f"owner-{n}": [] for n in range(8)}

    def take_on(owner: str) -> None:
        while some := notifier.take_posted(owner, limit=3):
            taken[owner] += some

    at_once(*(partial(take_on, owner) for owner in taken))
    seen = [(posted.queue_uid, posted.first) for posts in taken.values() for posted in posts]
    assert len(seen) == len(set(seen))
    # One that found nothing beside others may have gone home early, so the rest is for whoever comes next.
    assert len(seen) + len(notifier.take_all_posted("last")) == 120


def test_concurrent_expansions_of_a_post_make_each_delivery_once(notifier: NotifierClient, queue: QueueClient) -> None:
    """The lease of the first was over, but it lives: together they make each delivery once."""
    for round_ in range(5):
        queue.post("a", "b", "c")
        (posted,) = notifier.take_posted()
        backlogs = [SubscriptionBacklog(notifier, queue.queue.uid) for _ in range(3)]
        made = deliveries_of(posted, *(backlog.subscription_id for backlog in backlogs))
        first: list[bool] = []

        def expand(part: list[Delivery], posted: Posted = posted, first: list[bool] = first) -> None:
            first.append(notifier.expand(posted, part))

        at_once(*(partial(expand, part) for part in (made, made[::-1], made)))
        assert sorted(first) == [False, False, True]
        for backlog in backlogs:
            assert numbers(backlog.listing()) == [3 * round_ + n for n in (3, 2, 1)]
            assert backlog.counts() == (3, 0)
        assert len(notifier.take_all()) == 9
    notifier.clock.advance(LEASE)
    assert notifier.take_posted() == []


def test_each_acknowledged_message_is_in_exactly_one_post(notifier: NotifierClient) -> None:
    """Posters, a fence that moves under them, and takers that expand, all at a time."""
    orders = notifier.open_queue()
    told: list[tuple[int, str]] = []
    got: list[Posted] = []
    posted_all: list[bool] = []

    def post_on(writer: int) -> None:
        n = 0
        while n < 15:
            texts = [f"{writer}.{n}.{k}" for k in range(3)]
            try:
                told.extend(zip(orders.post(*texts), texts, strict=True))
            except StaleQueue:
                continue
            n += 1

    def raise_on() -> None:
        for _ in range(10):
            orders.raise_generation()

    def produce() -> None:
        try:
            at_once(*(partial(post_on, writer) for writer in range(4)), raise_on)
        finally:
            posted_all.append(True)

    def take_on(owner: str) -> None:
        while True:
            ended = bool(posted_all)
            some = notifier.take_posted(owner, limit=5)
            for posted in some:
                notifier.expand(posted)
            got.extend(some)
            if ended and not some:
                return

    at_once(produce, *(partial(take_on, f"owner-{n}") for n in range(3)))
    got += notifier.take_all_posted("last", limit=ALL)
    found = [(posted.first + n, draft.body.decode()) for posted in got for n, draft in enumerate(posted.drafts)]
    assert sorted(found) == sorted(told)
    assert sorted(number for number, _ in found) == list(range(1, 181))
    assert [(each.sequence, each.body.decode()) for each in orders.listing()] == sorted(told)


def test_a_dead_letter_that_is_received_is_in_the_outbox_once(notifier: NotifierClient) -> None:
    dead_letters, quiet = notifier.open_queue("dead_letters"), notifier.open_queue("quiet", notify=False)
    letters = [letter(notifier, n) for n in range(3)]
    for some in (letters[:1], letters, letters):
        dead_letters.store.dead_letters.receive(queue=dead_letters.queue, messages=some, now=notifier.now)
    quiet.store.dead_letters.receive(queue=quiet.queue, messages=letters, now=notifier.now)
    noted = sorted(notifier.take_all_posted(), key=lambda posted: posted.first)
    assert {posted.queue_uid for posted in noted} == {dead_letters.queue.uid}
    notified = [(posted.first + n, draft.body) for posted in noted for n, draft in enumerate(posted.drafts)]
    assert notified == [(message.sequence, message.body) for message in dead_letters.listing()]
    assert {draft.ttl for posted in noted for draft in posted.drafts} == {600}
    assert {posted.client_id for posted in noted} == {"producer"}


@pytest.mark.parametrize("ttl", [None, 900])
def test_a_dead_letter_that_a_claim_moves_is_in_the_outbox_once(notifier: NotifierClient, ttl: int | None) -> None:
    source, dead_letters = notifier.open_queue("orders", notify=False), notifier.open_queue("dead_letters")
    source.post("0", "1", "2", ttl=600)
    source.claim_and_release(2, times=1)
    rules = DeadLetters(dead_letters.queue, 1, ttl)
    assert bodies(source.claim(dead_letters=rules)[1]) == ["2"]
    assert source.claim(dead_letters=rules)[1] == []
    assert bodies(dead_letters.listing()) == ["0", "1"]
    noted = sorted(notifier.take_all_posted(), key=lambda posted: posted.first)
    assert messages_of(noted) == [(dead_letters.queue.uid, message.sequence) for message in dead_letters.listing()]
    assert [draft.body for posted in noted for draft in posted.drafts] == [b"0", b"1"]
    assert {draft.ttl for posted in noted for draft in posted.drafts} == {600 if ttl is None else ttl}


def letter(notifier: NotifierClient, number: int) -> Message:
    """A message that another store has set aside."""
    uid = new_queue().uid
    message = Message(
        uid, number + 1, b'"%d"' % number, notifier.now - 60, notifier.now + 540, "producer", claim_count=1
    )
    return replace(message, origin=Origin("orders", message.id, 1))
