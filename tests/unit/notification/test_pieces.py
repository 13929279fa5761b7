# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from zaqar.model import CONFIRMED, PENDING, REFUSED, Delivery, Draft, Posted, PostPosition, Subscription
from zaqar.notification import pieces
from zaqar.notification.pieces import Piece, PieceMaker, size_of_page
from zaqar.notification.subscribers import Page
from zaqar.schemas.filters import Filter
from zaqar.storage.base import PIECE_BYTES, PIECE_DELIVERIES

UID = "a" * 24


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece ends because the machine is busy."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)


def subscription(id_: str, state: str = CONFIRMED, version: int = 1, **options: Any) -> Subscription:
    return Subscription(
        id_, UID, "p", "queue", "q", f"http://{id_}/", 60, 0.0, 60.0, options=options, state=state, version=version
    )


def posted(*bodies: bytes, delay: int = 0) -> Posted:
    return Posted(UID, 7, "c", 1000.0, tuple(Draft(body, 300, delay) for body in bodies))


def page_of(*subscriptions: Subscription, is_last: bool = True) -> Page:
    return Page(subscriptions, subscriptions[-1].id if subscriptions else "", is_last)


def pieces_of(
    post: Posted, *subscriptions: Subscription, expander: PieceMaker | None = None, is_last: bool = True
) -> list[Piece]:
    """All pieces of a post for a page."""
    expander = expander or PieceMaker(require_confirmation=False)
    page = page_of(*subscriptions, is_last=is_last)

    async def play(post: Posted) -> list[Piece]:
        pieces = [await expander.make(post, page)]
        while (position := pieces[-1].position) is not None and position.through:
            post = replace(post, position=position)
            pieces.append(await expander.make(post, page))
        return pieces

    return asyncio.run(play(post))


def made_in(*pieces: Piece) -> list[tuple[str, int]]:
    return [(delivery.subscription_id, delivery.number) for piece in pieces for delivery, _ in piece.made]


def expand(post: Posted, *subscriptions: Subscription, require_confirmation: bool = False) -> list[tuple[str, int]]:
    expander = PieceMaker(require_confirmation=require_confirmation)
    (piece,) = pieces_of(post, *subscriptions, expander=expander)
    assert piece.position is None
    return made_in(piece)


def test_one_for_each_message_and_subscription() -> None:
    made = expand(posted(b"1", b"2"), subscription("a"), subscription("b"))
    assert made == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]


def test_a_delivery_has_the_fields_of_its_message() -> None:
    (piece,) = pieces_of(posted(b"[1]", delay=30), subscription("a"))
    ((delivery, of),) = piece.made
    assert delivery == Delivery(UID, "a", 7, b"[1]", 300, 1000.0, "c", due=1030.0)
    assert of.id == "a"


@pytest.mark.parametrize(("required", "gets"), [(False, ["a", "b"]), (True, ["a"])])
def test_states(required: bool, gets: list[str]) -> None:
    subscriptions = [subscription("a"), subscription("b", PENDING), subscription("c", REFUSED)]
    made = expand(posted(b"1"), *subscriptions, require_confirmation=required)
    assert [id_ for id_, _ in made] == gets


def test_filters() -> None:
    made = expand(posted(b'{"n":1}', b'{"n":2}', b"[]"), subscription("a", filter={"n": [2]}), subscription("b"))
    assert made == [("b", 7), ("a", 8), ("b", 8), ("b", 9)]


def test_a_changed_filter_acts() -> None:
    expander = PieceMaker(require_confirmation=False)
    post = posted(b'{"n":1}')
    for version, wanted in ((1, [2]), (2, [1])):
        pieces = pieces_of(post, subscription("a", version=version, filter={"n": wanted}), expander=expander)
        assert len(made_in(*pieces)) == version - 1


def test_filters_are_compiled_once_and_forgotten_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    compile_filter = pieces.compile_filter

    def note(policy: object, *, field: str) -> Any:
        compiled.append(policy)
        return compile_filter(policy, field=field)

    monkeypatch.setattr(pieces, "compile_filter", note)
    expander = PieceMaker(require_confirmation=False)

    def use(*ids: str) -> None:
        pieces_of(posted(b"1"), *(subscription(id_, filter={id_: [1]}) for id_ in ids), expander=expander)

    use("a")
    monkeypatch.setattr(pieces, "MOST_BYTES_OF_FILTERS", 2 * expander._size_of_filters)

    for _ in range(3):
        use("a", "b")
    assert len(compiled) == 2
    use("c")
    use("a")
    assert len(compiled) == 4


def test_a_filter_that_cannot_be_used_lets_all_pass(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert expand(posted(b"1"), subscription("a", filter={"n": []})) == [("a", 7)]
    assert "filter of subscription a" in caplog.text


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "subscribers", "pieces"),
    [(1, 1, 1), (500, 1, 1), (501, 1, 2), (5, 100, 1), (6, 100, 2), (3, 200, 2), (1, 500, 1), (0, 5, 1), (7, 0, 1)],
)
def test_a_piece_is_bounded_in_deliveries(count: int, subscribers: int, pieces: int) -> None:
    those = [subscription(f"{n:03}") for n in range(subscribers)]
    found = pieces_of(posted(*[b"1"] * count), *those)
    assert len(found) == pieces
    assert max(len(piece.made) for piece in found) <= PIECE_DELIVERIES
    assert made_in(*found) == [(each.id, 7 + n) for n in range(count) for each in those]


@pytest.mark.parametrize("size", [1000, 100_000, 262_144, PIECE_BYTES // 2 + 1, PIECE_BYTES + 1])
def test_a_piece_is_bounded_in_bytes_unless_it_is_a_single_delivery(size: int) -> None:
    post = posted(*[b"1" * size] * 3, b"1")
    those = [subscription(f"{n:03}") for n in range(size_of_page(post))]
    found = pieces_of(post, *those)
    assert made_in(*found) == [(each.id, 7 + n) for n in range(4) for each in those]
    for piece in found:
        assert len(piece.made) == 1 or sum(len(delivery.body) for delivery, _ in piece.made) <= PIECE_BYTES
        assert len(piece.made) <= PIECE_DELIVERIES


def test_positions_lead_from_piece_to_piece_and_page_to_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", 4)
    post = posted(b"1", b"2", b"3")
    first, second = pieces_of(post, subscription("a"), subscription("b"), is_last=False)
    assert (first.position, second.position) == (PostPosition("", "b", 2), PostPosition("b", "", 0))
    third, fourth = pieces_of(replace(post, position=PostPosition("b")), subscription("c"), subscription("d"))
    assert (third.position, fourth.position) == (PostPosition("b", "d", 2), None)
    assert made_in(first, second, third, fourth) == [
        *((id_, n) for n in (7, 8, 9) for id_ in "ab"),
        *((id_, n) for n in (7, 8, 9) for id_ in "cd"),
    ]


def test_without_subscribers_all_messages_are_one_piece() -> None:
    post = posted(*[b"1"] * 5000)
    assert len(pieces_of(post, subscription("a", REFUSED))) == 1
    assert len(pieces_of(post)) == 1


def test_a_body_is_decoded_once_for_all_subscriptions_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    loads = json.loads

    def note(body: bytes) -> Any:
        decoded.append(body)
        return loads(body)

    monkeypatch.setattr(pieces.json, "loads", note)
    bodies = [b"[%d]" % n for n in range(20)]
    pieces_of(posted(*bodies), *(subscription(f"{n:02}", filter={"n": [n]}) for n in range(50)))
    assert decoded == bodies
    pieces_of(posted(*bodies), *(subscription(f"{n:02}") for n in range(50)))
    assert decoded == bodies


def test_a_piece_ends_when_it_has_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing matches: so the post gets on, and others have their turn."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.0)
    found = pieces_of(posted(*[b'{"n": 1}'] * 5), subscription("a", filter={"n": [2]}))
    assert [piece.position and piece.position.message for piece in found] == [1, 2, 3, 4, None]


class Stopwatch:
    """Time that passes with each look at a filter, as if matching took so long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.seconds: dict[bytes, float] = {}
        monkeypatch.setattr(pieces, "perf_counter", lambda: self.now)
        matches = Filter.matches

        def match(filter_: Filter, body: Any) -> bool:
            self.now += self.seconds.get(json.dumps(body).encode(), 0.0)
            return matches(filter_, body)

        monkeypatch.setattr(Filter, "matches", match)


def whole(post: Posted, *those: Subscription, expander: PieceMaker) -> list[tuple[list[tuple[str, int]], Any]]:
    """All pieces of a post, page after page, each page from the position on."""
    found = []
    position: PostPosition | None = post.position
    while position is not None:
        last = [each for each in those if each.id <= (position.through or "z")]
        page = [each for each in last if each.id > position.after]
        end, is_last = (position.through, False) if position.through else (page[-1].id if page else "", True)
        piece = asyncio.run(expander.make(replace(post, position=position), Page(tuple(page), end, is_last)))
        found.append((made_in(piece), piece.position))
        position = piece.position
    return found


def test_a_first_piece_ends_within_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many costly filters cannot hold the event loop for long: the page is cut."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.03)
    watch = Stopwatch(monkeypatch)
    watch.seconds[b"[1]"] = pieces.PIECE_SECONDS / 2 + 0.001
    post = posted(b"[1]", b"[2]")
    those = [subscription(id_, filter={"n": [{"exists": False}]}) for id_ in "abcde"]
    found = whole(post, *those, expander=PieceMaker(require_confirmation=False))
    assert [position for _, position in found] == [
        PostPosition("", "b", 1),
        PostPosition("b"),
        PostPosition("b", "d", 1),
        PostPosition("d"),
        None,
    ]
    made = [key for some, _ in found for key in some]
    assert made == []
    watch.seconds.clear()
    assert whole(post, *those, expander=PieceMaker(require_confirmation=False))[0][1] is None


@pytest.mark.parametrize(
    ("conditions", "most"),
    [([1], 100), ([{"prefix": str(n)} for n in range(150)], 100), ([{"numeric": ["=", n]} for n in range(150)], 21)],
)
def test_a_page_is_bounded_in_the_comparisons_of_one_message(conditions: Any, most: int) -> None:
    """Its first message is matched in no time, but the next one may be of another kind."""
    those = [subscription(f"{n:03}", filter={"a": conditions}) for n in range(150)]
    found = whole(posted(b"0", b'{"a": 1}'), *those, expander=PieceMaker(require_confirmation=False))
    first = found[0][1]
    assert first is not None
    assert most <= int(first.after) + 1 <= most + 1
    assert len(found) == -(-150 // (int(first.after) + 1))


def test_a_piece_ends_before_a_message_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next piece makes all deliveries of that message, and none is made twice or left out."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.03)
    watch = Stopwatch(monkeypatch)
    watch.seconds[b'{"n": 2}'] = pieces.PIECE_SECONDS / 2 + 0.001
    post = posted(*(b'{"n": %d}' % n for n in (1, 1, 2, 1, 2)))
    those = [subscription(id_, filter={"n": [1, 2]}) for id_ in "abcde"]
    found = whole(post, *those, expander=PieceMaker(require_confirmation=False))
    assert found[0] == ([(id_, n) for n in (7, 8) for id_ in "abcde"], PostPosition("", "e", 2))
    made = [key for some, _ in found for key in some]
    assert len(made) == len(set(made))
    assert set(made) == {(id_, n) for n in range(7, 12) for id_ in "abcde"}


# -- the event loop ----------------------------------------------------------------------------------------------------


WORDS = [f"word{n:04}" for n in range(600)]
COSTLY: dict[str, tuple[Any, Any, int]] = {
    # conditions, body, messages
    "prefix": ([{"prefix": f"{n}."} for n in range(150)], WORDS, 60),
    "numeric": ([{"numeric": ["=", -1 - n]} for n in range(150)], list(range(600)), 4),
    "or": ({"$or": [{str(n): [1]} for n in range(150)]}, [{}] * 600, 3),
    "decoding": ([1], [[]] * 20_000, 25),
}


def costly(kind: str, subscriptions: int = 40) -> tuple[Posted, Page]:
    """A post and subscriptions that want none of it and take long to match."""
    conditions, body, count = COSTLY[kind]
    post = posted(*[json.dumps({"a": body}).encode()] * count)
    return post, page_of(*(subscription(f"{n:02}", filter={"a": conditions}) for n in range(subscriptions)))


async def lags(during: asyncio.Task[Any]) -> list[float]:
    """How late the event loop is with something else, the least first."""
    loop = asyncio.get_running_loop()
    found = []
    while not during.done():
        began = loop.time()
        await asyncio.sleep(0)
        found.append(loop.time() - began)
    return sorted(found)


@pytest.mark.parametrize("kind", COSTLY)
def test_the_event_loop_goes_on_while_a_post_is_matched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without slices it stands for as long as all of the post takes."""
    monkeypatch.setattr(pieces, "MOST_STEPS_OF_A_PAGE", 10**9)

    async def play() -> list[float]:
        matching = asyncio.create_task(PieceMaker(require_confirmation=False).make(*costly(kind, 15)))
        found = await lags(matching)
        assert matching.result() == Piece([], None)
        return found

    in_slices = asyncio.run(play())
    monkeypatch.setattr(pieces, "SLICE_SECONDS", 3600.0)
    without = asyncio.run(play())
    # Of the slices but the few during which another program may have had the processor.
    assert 3 * in_slices[len(in_slices) * 9 // 10] < without[-1]


def test_posts_that_are_matched_take_turns() -> None:
    """A small one is done while a large one is under way, and the large one gets its part."""

    async def play() -> None:
        expander = PieceMaker(require_confirmation=False)
        matching = asyncio.create_task(expander.make(*costly("prefix")))
        await asyncio.sleep(0)
        done = 0
        while not matching.done():
            filtered = subscription(f"small{done}", filter={"n": [1]})
            piece = await expander.make(posted(b'{"n": 1}'), page_of(filtered))
            assert len(piece.made) == 1
            done += 1
            # A notifier waits for the store after each piece.
            await asyncio.sleep(0)
        assert done > 5

    asyncio.run(play())


def test_a_piece_that_is_cancelled_leaves_its_turn_to_others() -> None:
    async def play() -> None:
        expander = PieceMaker(require_confirmation=False)
        for waits in range(4):
            matching = [asyncio.create_task(expander.make(*costly("prefix"))) for _ in range(2)]
            for _ in range(waits):
                await asyncio.sleep(0)
            matching[0].cancel()
            matching[1].cancel()
            await asyncio.gather(*matching, return_exceptions=True)
            async with asyncio.timeout(10):
                assert len((await expander.make(posted(b"1"), page_of(subscription("a")))).made) == 1

    asyncio.run(play())
