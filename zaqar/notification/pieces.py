# SPDX-License-Identifier: Apache-2.0
"""Makes deliveries of posts: one for each message and each subscription whose filter accepts it.

Nothing here does I/O: ``LeasedPosts`` passes a post and a page of subscriptions, and stores the piece that comes back.
The work is done in the event loop in slices of a few milliseconds, so that it delays nothing else for long, and the
slices of several posts take turns.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from zaqar.clock import Clock, system_clock
from zaqar.encryption.messages import NO_KEYS, UNREADABLE_SECONDS, MessageKeys, Unreadable
from zaqar.errors import InvalidInput
from zaqar.model import Delivery, Posted, PostPosition, Subscription, is_sealed
from zaqar.notification.subscribers import Page, bytes_of, gets_messages
from zaqar.schemas.filters import Filter, compile_filter
from zaqar.storage.base import PIECE_BYTES, PIECE_DELIVERIES

_log = logging.getLogger(__name__)

MOST_BYTES_OF_FILTERS = 16 * 1024 * 1024
"""Approximate memory that compiled filters may take. Those compiled longest ago are forgotten first."""

MOST_OF_A_PAGE = 200
"""Most subscriptions of one page."""

MOST_STEPS_OF_A_PAGE = 200_000
"""Most comparisons, about, of one message with all filters of a page. Ten of the most costly filters take half."""

SLICE_SECONDS = 0.004
"""Longest slice of work in the event loop, unless a single body takes longer to decode or to match."""

PIECE_SECONDS = 0.03
"""A piece ends soon after it has taken so much time of the event loop.

So a post waits less than a second for its turn behind 25 others.
"""

_ANYTHING = object()
"""In place of a body that cannot be decrypted: it passes all filters."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Deliveries of a post, without a lease and due when their messages are, and the position after them.

    ``position`` is None if the post is expanded completely. ``reduced``: ids of subscriptions of which only a part of
    the options was read, so that they have to be read again before anything is sent.
    """

    made: Sequence[tuple[Delivery, Subscription]]
    position: PostPosition | None
    reduced: frozenset[str] = frozenset()


def size_of_page(posted: Posted) -> int:
    """Number of subscriptions of one page: so many that one message for all of them is within the bounds of a piece."""
    largest = max((len(draft.body) for draft in posted.drafts), default=0)
    return max(1, min(MOST_OF_A_PAGE, PIECE_DELIVERIES, PIECE_BYTES // max(1, largest)))


class PieceMaker:
    """Makes the pieces of all posts that one event loop expands."""

    def __init__(self, *, require_confirmation: bool, keys: MessageKeys = NO_KEYS, clock: Clock = system_clock) -> None:
        """``keys`` decrypt bodies for the filters. Deliveries have the bodies as they are stored."""
        self._require_confirmation = require_confirmation
        self._keys = keys
        self._clock = clock
        self._filters: OrderedDict[tuple[str, int], tuple[Filter | None, int]] = OrderedDict()
        self._size_of_filters = 0
        self._turn = asyncio.Lock()

    async def make(self, posted: Posted, page: Page) -> Piece:
        """The next piece of a post from its position on, for a page of subscriptions that was read for that position.

        It has all deliveries of one or more messages for the page, within the bounds of ``OutboxStore.expand`` if the
        page has at most ``size_of_page`` subscriptions. If the first message takes long, or another message may, the
        page is cut: the piece is for its beginning only, and the stored position says so.

        Raises Unreadable if a message that has to be filtered cannot be decrypted now.
        """
        wanting = self._wanting(page)
        if not wanting or not posted.drafts:
            # There is nothing to make for this page.
            return Piece((), None if page.is_last else PostPosition(after=page.end), page.reduced)
        position = posted.position
        async with _Slices(self._turn) as slices:
            matching = _Matching(posted, wanting, slices, decode=self._decode, filter_of=self._filter_of)
            # The page may be cut only while no piece of it is stored (``through`` is empty). Afterwards the stored
            # position promises that all messages before ``message`` were expanded for the page up to its stored end.
            await matching.match_first(position.message, may_cut=not position.through)
            is_cut = len(matching.wanting) < len(wanting)
            end, is_last = (matching.wanting[-1].id, False) if is_cut else (page.end, page.is_last)
            for number in range(position.message + 1, len(posted.drafts)):
                if not await matching.match_next(number):
                    # The position has the end of the page and the next message, so that another notifier would read
                    # the same page, and go on with this message.
                    return Piece(matching.made, PostPosition(position.after, end, number), page.reduced)
        return Piece(matching.made, None if is_last else PostPosition(after=end), page.reduced)

    def _wanting(self, page: Page) -> list[Subscription]:
        return [
            subscription
            for subscription in page.subscriptions
            if gets_messages(subscription, require_confirmation=self._require_confirmation)
        ]

    def _decode(self, posted: Posted, body: bytes, project: str) -> object:
        """The body as filters see it."""
        if is_sealed(body):
            try:
                body = self._keys.open(body, project=project)
            except Unreadable:
                if self._clock() < posted.created + UNREADABLE_SECONDS:
                    raise
                # Make its deliveries all the same: each is given up with a reason that its owner can see.
                return _ANYTHING
        return json.loads(body)

    def _filter_of(self, subscription: Subscription) -> Filter | None:
        policy = subscription.options.get("filter")
        if policy is None:
            return None
        key = subscription.id, subscription.version
        if key not in self._filters:
            compiled = _compile(subscription, policy)
            # The policy is counted too, because the compiled filter refers to its texts.
            size = bytes_of(policy) + (0 if compiled is None else compiled.size)
            self._filters[key] = compiled, size
            self._size_of_filters += size
            while self._size_of_filters > MOST_BYTES_OF_FILTERS and len(self._filters) > 1:
                _, (_, size) = self._filters.popitem(last=False)
                self._size_of_filters -= size
        self._filters.move_to_end(key)
        return self._filters[key][0]


class _Matching:
    """Matches messages of one post with the subscriptions of one page, for one piece. ``made`` has the deliveries."""

    def __init__(
        self,
        posted: Posted,
        wanting: list[Subscription],
        slices: _Slices,
        *,
        decode: Callable[[Posted, bytes, str], object],
        filter_of: Callable[[Subscription], Filter | None],
    ) -> None:
        self.wanting = wanting
        """The subscriptions that get messages; fewer after the page was cut."""
        self.made: list[tuple[Delivery, Subscription]] = []
        self._posted = posted
        self._slices = slices
        self._decode = decode
        self._filter_of = filter_of
        self._is_filtered = any("filter" in subscription.options for subscription in wanting)
        self._filters: list[Filter | None] = []
        """The filters of ``wanting``, in the same order."""
        self._size = 0
        """Bytes of the bodies of ``made``."""

    async def match_first(self, number: int, *, may_cut: bool) -> None:
        """Match the first message. If ``may_cut``, cut the page when this message takes long, or another one may."""
        body, steps = self._body_of(number), 0
        for index, subscription in enumerate(self.wanting):
            if may_cut and index and (self._takes_long() or steps > MOST_STEPS_OF_A_PAGE):
                self.wanting = self.wanting[:index]
                return
            await self._slices.pause()
            chosen = self._filter_of(subscription)
            self._filters.append(chosen)
            if chosen is not None:
                steps += chosen.steps
            self._match(number, subscription, chosen, body)

    async def match_next(self, number: int) -> bool:
        """Match a further message. False, without any delivery of it, if the piece has no room or no time for it."""
        count, size = len(self.wanting), len(self._posted.drafts[number].body)
        done = len(self.made)
        if done + count > PIECE_DELIVERIES or self._size + size * count > PIECE_BYTES or self._takes_long():
            return False
        body = self._body_of(number)
        for index, (subscription, chosen) in enumerate(zip(self.wanting, self._filters, strict=True)):
            if index and self._takes_long():
                # The next piece makes all of this message, so that each delivery is in one piece only.
                del self.made[done:]
                return False
            await self._slices.pause()
            self._match(number, subscription, chosen, body)
        return True

    def _takes_long(self) -> bool:
        return self._slices.seconds > PIECE_SECONDS

    def _body_of(self, number: int) -> object:
        """The body as filters see it; None if no subscription has a filter."""
        if not self._is_filtered:
            return None
        return self._decode(self._posted, self._posted.drafts[number].body, self.wanting[0].project)

    def _match(self, number: int, subscription: Subscription, chosen: Filter | None, body: object) -> None:
        if chosen is None or body is _ANYTHING or chosen.matches(body):
            delivery = _delivery(self._posted, number, subscription)
            self._size += len(delivery.body)
            self.made.append((delivery, subscription))


class _Slices:
    """Turns at the event loop for one piece, within ``async with``. ``seconds``: how long they took in all."""

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._has_turn = False
        self._began = 0.0
        self._before = 0.0

    @property
    def seconds(self) -> float:
        return self._before + perf_counter() - self._began

    async def __aenter__(self) -> _Slices:
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        # There is no turn to end if the task was cancelled while it waited for one.
        if self._has_turn:
            self._end()

    async def pause(self) -> None:
        """If the time of the slice is over, let other tasks and posts go on, and wait for the next turn."""
        if perf_counter() - self._began < SLICE_SECONDS:
            return
        self._end()
        await asyncio.sleep(0)
        await self._begin()

    async def _begin(self) -> None:
        await self._turn.acquire()
        self._has_turn = True
        self._began = perf_counter()

    def _end(self) -> None:
        self._before = self.seconds
        self._has_turn = False
        self._turn.release()


def _delivery(posted: Posted, number: int, subscription: Subscription) -> Delivery:
    draft = posted.drafts[number]
    return Delivery(
        posted.queue_uid,
        subscription.id,
        posted.first + number,
        draft.body,
        draft.ttl,
        posted.created,
        posted.client_id,
        due=posted.created + draft.delay,
        trace=draft.trace,
        request_id=posted.request_id,
    )


def _compile(subscription: Subscription, policy: object) -> Filter | None:
    try:
        return compile_filter(policy, field="options.filter")
    except InvalidInput as exc:
        # It was checked when it was stored, so another version stored it. A message too many is better than a message
        # that never comes.
        _log.warning("The filter of subscription %s cannot be used and lets all pass: %s", subscription.id, exc)
        return None
