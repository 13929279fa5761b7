# SPDX-License-Identifier: Apache-2.0
"""Promise 3, paging: a reader that follows the marker sees each message that stays exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.model import Message

PAGE_SIZES = range(1, 21)
every_page_size = pytest.mark.parametrize("size", PAGE_SIZES)


def follow(orders: QueueClient, size: int, *, after: int = 0, **flags: bool | str) -> Iterator[list[Message]]:
    """Pages until an empty one, each from the last message of the one before."""
    while page := orders.listing(after, size, **flags):  # type: ignore[arg-type]
        yield page
        after = page[-1].sequence


@every_page_size
def test_every_message_is_on_exactly_one_page(orders: QueueClient, size: int) -> None:
    texts = [str(n) for n in range(47)]
    orders.post(*texts)
    pages = list(follow(orders, size))
    assert [text for page in pages for text in bodies(page)] == texts
    assert all(len(page) == size for page in pages[:-1])


@every_page_size
def test_a_marker_works_after_its_message_is_gone(orders: QueueClient, size: int) -> None:
    orders.post(*(str(n) for n in range(60)))
    seen: list[str] = []
    for page in follow(orders, size):
        seen += bodies(page)
        orders.delete(page[-1].sequence)
    assert seen == [str(n) for n in range(60)]


@pytest.mark.parametrize("gone_by", ["delete", "claim", "expiry", "pop"])
def test_a_marker_works_whatever_removed_its_message(orders: QueueClient, gone_by: str) -> None:
    orders.post("a", "b", ttl=60)
    orders.post("c", "d", ttl=600)
    if gone_by == "delete":
        orders.delete_many(1, 2)
    elif gone_by == "claim":
        orders.claim(2)
    elif gone_by == "expiry":
        orders.clock.advance(60)
        orders.store.sweep(now=orders.now, limit=1000)
    else:
        orders.pop(2)
    assert bodies(orders.listing(after=2)) == ["c", "d"]
    assert bodies(orders.listing(after=1)) == ["c", "d"]


def test_deletions_behind_and_ahead_of_the_reader_leave_the_rest(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(1, 101)))
    seen: list[int] = []
    for page in follow(orders, 7):
        seen += [message.sequence for message in page]
        orders.delete_many(seen[0], *range(seen[-1] + 3, seen[-1] + 5))
    assert len(seen) == len(set(seen))
    assert set(seen) >= {message.sequence for message in orders.list_everything()}


def test_an_empty_page_comes_only_at_the_end(orders: QueueClient) -> None:
    """Long runs of messages that the page leaves out must not end it early."""
    orders.post("first", client="a")
    orders.post(*(["mine"] * 300), client="b")
    orders.post(*(["late"] * 300), client="a", delay=600)
    orders.post(*(["expired"] * 300), client="a", ttl=60)
    orders.clock.advance(60)
    orders.post("last", client="a")
    pages = list(follow(orders, 1, exclude="b"))
    assert [bodies(page) for page in pages] == [["first"], ["last"]]


def test_a_page_is_full_when_there_is_more_to_see(orders: QueueClient) -> None:
    for n in range(40):
        orders.post(f"{n}", client="me" if n % 2 else "other")
    orders.claim(4)
    page = orders.listing(limit=10, exclude="me")
    assert bodies(page) == [str(n) for n in range(4, 24, 2)]


def test_a_marker_past_the_end_gives_an_empty_page(orders: QueueClient) -> None:
    orders.post("a")
    assert orders.listing(after=1) == []
    assert orders.listing(after=2**48 - 1) == []


def test_a_reader_at_the_end_sees_what_is_posted_next(orders: QueueClient) -> None:
    orders.post("a", "b")
    marker = orders.listing()[-1].sequence
    assert orders.listing(marker) == []
    orders.post("c")
    assert bodies(orders.listing(marker)) == ["c"]


@every_page_size
def test_paging_with_claimed_and_delayed_messages(orders: QueueClient, size: int) -> None:
    orders.post("a", "b")
    orders.claim(2)
    orders.post("c", "d", delay=60)
    orders.post("e", "f")

    def seen(*, claimed: bool, delayed: bool) -> str:
        return "".join(text for page in follow(orders, size, claimed=claimed, delayed=delayed) for text in bodies(page))

    assert seen(claimed=False, delayed=False) == "ef"
    assert seen(claimed=True, delayed=False) == "abef"
    assert seen(claimed=False, delayed=True) == "cdef"
    assert seen(claimed=True, delayed=True) == "abcdef"


def test_the_messages_of_a_client_are_left_out_only_for_that_client(orders: QueueClient) -> None:
    orders.post("a", client="me")
    orders.post("b", client="you")
    assert bodies(orders.listing(exclude="me")) == ["b"]
    assert bodies(orders.listing(exclude="you")) == ["a"]
    assert bodies(orders.listing(exclude="ME")) == ["a", "b"]
    assert bodies(orders.listing()) == ["a", "b"]


def test_readers_during_posts_skip_nothing_and_repeat_nothing(orders: QueueClient) -> None:
    """Numbers must become visible in order, or a reader's marker gets past a post that is still on its way."""
    writers, posts, sizes = 4, 60, (1, 2, 7, 20)
    written: list[int] = []
    read: dict[int, list[int]] = {size: [] for size in sizes}
    done = threading.Event()

    def write() -> None:
        for n in range(posts):
            written.extend(orders.post(*["x"] * (n % 3 + 1)))

    def read_on(seen: list[int], size: int) -> None:
        while True:
            ended = done.is_set()
            for page in follow(orders, size, after=seen[-1] if seen else 0):
                seen += [message.sequence for message in page]
            if ended:
                return

    def write_all() -> None:
        try:
            at_once(*[write] * writers)
        finally:
            done.set()

    at_once(write_all, *(partial(read_on, read[size], size) for size in sizes))
    everything = list(range(1, writers * sum(n % 3 + 1 for n in range(posts)) + 1))
    assert sorted(written) == everything
    assert read == dict.fromkeys(sizes, everything)
