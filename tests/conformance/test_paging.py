# SPDX-License-Identifier: Apache-2.0
"""Promise 3: whoever follows the marker sees each message that was there all the time exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.scene import Scene, at_once, bodies
from zaqar.model import Message

PAGE_SIZES = range(1, 21)
every_page_size = pytest.mark.parametrize("size", PAGE_SIZES)


def follow(scene: Scene, size: int, *, after: int = 0, **flags: bool | str) -> Iterator[list[Message]]:
    """Pages until an empty one, each from the last message of the one before."""
    while page := scene.listing(after, size, **flags):  # type: ignore[arg-type]
        yield page
        after = page[-1].sequence


@every_page_size
def test_every_message_is_on_exactly_one_page(scene: Scene, size: int) -> None:
    texts = [str(n) for n in range(47)]
    scene.post(*texts)
    pages = list(follow(scene, size))
    assert [text for page in pages for text in bodies(page)] == texts
    assert all(len(page) == size for page in pages[:-1])


@every_page_size
def test_a_marker_is_good_after_its_message_is_gone(scene: Scene, size: int) -> None:
    scene.post(*(str(n) for n in range(60)))
    seen: list[str] = []
    for page in follow(scene, size):
        seen += bodies(page)
        scene.delete(page[-1].sequence)
    assert seen == [str(n) for n in range(60)]


@pytest.mark.parametrize("gone_by", ["delete", "claim", "expiry", "pop"])
def test_a_marker_is_good_however_its_message_went(scene: Scene, gone_by: str) -> None:
    scene.post("a", "b", ttl=60)
    scene.post("c", "d", ttl=600)
    if gone_by == "delete":
        scene.delete_many(1, 2)
    elif gone_by == "claim":
        scene.claim(2)
    elif gone_by == "expiry":
        scene.clock.advance(60)
        scene.store.sweep(now=scene.now, limit=1000)
    else:
        scene.pop(2)
    assert bodies(scene.listing(after=2)) == ["c", "d"]
    assert bodies(scene.listing(after=1)) == ["c", "d"]


def test_deletions_behind_and_ahead_of_the_reader_leave_the_rest(scene: Scene) -> None:
    scene.post(*(str(n) for n in range(1, 101)))
    seen: list[int] = []
    for page in follow(scene, 7):
        seen += [message.sequence for message in page]
        scene.delete_many(seen[0], *range(seen[-1] + 3, seen[-1] + 5))
    assert len(seen) == len(set(seen))
    assert set(seen) >= {message.sequence for message in scene.list_everything()}


def test_an_empty_page_comes_only_at_the_end(scene: Scene) -> None:
    """Long runs of messages that the page leaves out must not end it early."""
    scene.post("first", client="a")
    scene.post(*(["mine"] * 300), client="b")
    scene.post(*(["late"] * 300), client="a", delay=600)
    scene.post(*(["expired"] * 300), client="a", ttl=60)
    scene.clock.advance(60)
    scene.post("last", client="a")
    pages = list(follow(scene, 1, exclude="b"))
    assert [bodies(page) for page in pages] == [["first"], ["last"]]


def test_a_page_is_full_when_there_is_more_to_see(scene: Scene) -> None:
    for n in range(40):
        scene.post(f"{n}", client="me" if n % 2 else "other")
    scene.claim(4)
    page = scene.listing(limit=10, exclude="me")
    assert bodies(page) == [str(n) for n in range(4, 24, 2)]


def test_a_marker_past_the_end_gives_an_empty_page(scene: Scene) -> None:
    scene.post("a")
    assert scene.listing(after=1) == []
    assert scene.listing(after=2**48 - 1) == []


def test_a_reader_at_the_end_sees_what_is_posted_next(scene: Scene) -> None:
    scene.post("a", "b")
    marker = scene.listing()[-1].sequence
    assert scene.listing(marker) == []
    scene.post("c")
    assert bodies(scene.listing(marker)) == ["c"]


@every_page_size
def test_paging_with_claimed_and_delayed_messages(scene: Scene, size: int) -> None:
    scene.post("a", "b")
    scene.claim(2)
    scene.post("c", "d", delay=60)
    scene.post("e", "f")

    def seen(*, claimed: bool, delayed: bool) -> str:
        return "".join(text for page in follow(scene, size, claimed=claimed, delayed=delayed) for text in bodies(page))

    assert seen(claimed=False, delayed=False) == "ef"
    assert seen(claimed=True, delayed=False) == "abef"
    assert seen(claimed=False, delayed=True) == "cdef"
    assert seen(claimed=True, delayed=True) == "abcdef"


def test_the_messages_of_a_client_are_left_out_only_for_it(scene: Scene) -> None:
    scene.post("a", client="me")
    scene.post("b", client="you")
    assert bodies(scene.listing(exclude="me")) == ["b"]
    assert bodies(scene.listing(exclude="you")) == ["a"]
    assert bodies(scene.listing(exclude="ME")) == ["a", "b"]
    assert bodies(scene.listing()) == ["a", "b"]


def test_readers_beside_writers_skip_nothing_and_repeat_nothing(scene: Scene) -> None:
    """Numbers must become visible in order, or a reader's marker gets past a post that is still on its way."""
    writers, posts, sizes = 4, 60, (1, 2, 7, 20)
    written: list[int] = []
    read: dict[int, list[int]] = {size: [] for size in sizes}
    done = threading.Event()

    def write() -> None:
        for n in range(posts):
            written.extend(scene.post(*["x"] * (n % 3 + 1)))

    def read_on(seen: list[int], size: int) -> None:
        while True:
            ended = done.is_set()
            for page in follow(scene, size, after=seen[-1] if seen else 0):
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
