# SPDX-License-Identifier: Apache-2.0
"""Which deliveries a post comes to: one for each of its messages and each subscription whose filter lets it pass.

They are made piece by piece, in slices of a few milliseconds: whatever else the event loop has to do is done between
two slices, and the slices of several posts take turns.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
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
"""Compiled filters that are kept take so much memory, about."""

MOST_OF_A_PAGE = 200
"""Subscriptions for which a post is expanded at a time."""

MOST_STEPS_OF_A_PAGE = 200_000
"""Comparisons that any message may take with all filters of a page, about. Ten of the most costly filters take half."""

SLICE_SECONDS = 0.004
"""Work in the event loop that is done without a pause. One body that is decoded or matched may take longer."""

PIECE_SECONDS = 0.03
"""A piece ends soon after it has taken so much time of the event loop.

That counts for those that wait: 25 posts of others that are matched for as long take less than a second together.
"""


_ANYTHING = object()
"""Stands for a body that no filter refuses."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Deliveries of a post, free and each due when its message is, and the position that they lead to.

    ``reduced``: ids of subscriptions that have not all of their options, so that nothing can be sent to them as they
    are here.
    """

    made: Sequence[tuple[Delivery, Subscription]]
    position: PostPosition | None
    reduced: frozenset[str] = frozenset()


def size_of_page(posted: Posted) -> int:
    """How many subscriptions to expand a post for at a time: so many that one message for all of them is a piece."""
    largest = max((len(draft.body) for draft in posted.drafts), default=0)
    return max(1, min(MOST_OF_A_PAGE, PIECE_DELIVERIES, PIECE_BYTES // max(1, largest)))


class Expander:
    """Made in one event loop and shared by all posts that are expanded in it."""

    def __init__(self, *, require_confirmation: bool, keys: MessageKeys = NO_KEYS, clock: Clock = system_clock) -> None:
        """``keys`` open encrypted bodies for the filters; deliveries are made of the bodies as they are stored."""
        self._require_confirmation = require_confirmation
        self._keys = keys
        self._clock = clock
        self._filters: OrderedDict[tuple[str, int], tuple[Filter | None, int]] = OrderedDict()
        self._size_of_filters = 0
        self._turn = asyncio.Lock()

    async def piece(self, posted: Posted, page: Page) -> Piece:
        """The next piece of a post, from its position on, for a page that was read for that position.

        It is within the bounds that ``DeliveryStore.expand`` sets if the page is of ``size_of_page``. It has all
        deliveries of at least one message for the page; or, if nothing was expanded for the page and that takes long
        or may take long with another message, for the beginning of the page, which is the whole page from then on.
        Raises Unreadable if a message that has to be filtered cannot be decrypted now.
        """
        position = posted.position
        wanting = self._wanting(page)
        filtered = any("filter" in subscription.options for subscription in wanting)
        filters: list[Filter | None] = []
        end, is_last = page.end, page.is_last
        made: list[tuple[Delivery, Subscription]] = []
        size = steps = 0
        async with _Slices(self._turn) as slices:
            # Without anybody who gets messages, all of them are done at once.
            for number in range(position.message, len(posted.drafts)) if wanting else ():
                draft = posted.drafts[number]
                is_first = number == position.message
                if not is_first and (
                    len(made) + len(wanting) > PIECE_DELIVERIES
                    or size + len(draft.body) * len(wanting) > PIECE_BYTES
                    or slices.seconds > PIECE_SECONDS
                ):
                    return Piece(made, PostPosition(position.after, end, number), page.reduced)
                body = self._decode(posted, draft.body, wanting[0].project) if filtered else None
                done = len(made)
                for index, subscription in enumerate(wanting):
                    takes_long = slices.seconds > PIECE_SECONDS
                    if takes_long and not is_first and index:
                        # Those of this message are made anew by the next piece.
                        return Piece(made[:done], PostPosition(position.after, end, number), page.reduced)
                    if (takes_long or steps > MOST_STEPS_OF_A_PAGE) and is_first and index and not position.through:
                        end, is_last = wanting[index - 1].id, False
                        wanting = wanting[:index]
                        break
                    await slices.pause()
                    if index == len(filters):
                        filters.append(self._filter_of(subscription))
                    chosen = filters[index]
                    if is_first and chosen is not None:
                        steps += chosen.steps
                    if chosen is None or body is _ANYTHING or chosen.matches(body):
                        size += len(draft.body)
                        made.append((_delivery(posted, number, subscription), subscription))
        return Piece(made, None if is_last else PostPosition(after=end), page.reduced)

    def _wanting(self, page: Page) -> list[Subscription]:
        return [
            subscription
            for subscription in page.subscriptions
            if gets_messages(subscription, require_confirmation=self._require_confirmation)
        ]

    def _decode(self, posted: Posted, body: bytes, project: str) -> object:
        """What filters look at."""
        if is_sealed(body):
            try:
                body = self._keys.open(body, project=project)
            except Unreadable:
                if self._clock() < posted.created + UNREADABLE_SECONDS:
                    raise
                # Its deliveries can be made at least, and are given up one by one.
                return _ANYTHING
        return json.loads(body)

    def _filter_of(self, subscription: Subscription) -> Filter | None:
        policy = subscription.options.get("filter")
        if policy is None:
            return None
        key = subscription.id, subscription.version
        if key not in self._filters:
            compiled = _compile(subscription, policy)
            # What it was compiled from is counted too: the texts are part of both.
            size = bytes_of(policy) + (0 if compiled is None else compiled.size)
            self._filters[key] = compiled, size
            self._size_of_filters += size
            while self._size_of_filters > MOST_BYTES_OF_FILTERS and len(self._filters) > 1:
                _, (_, size) = self._filters.popitem(last=False)
                self._size_of_filters -= size
        self._filters.move_to_end(key)
        return self._filters[key][0]


class _Slices:
    """Turns at the event loop, within ``async with``. ``seconds``: how long the turns took in all."""

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
        # It has none if it was cancelled while it waited.
        if self._has_turn:
            self._end()

    async def pause(self) -> None:
        """End the slice when its time is over, and begin another one when it is this one's turn again."""
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
    )


def _compile(subscription: Subscription, policy: object) -> Filter | None:
    try:
        return compile_filter(policy, field="options.filter")
    except InvalidInput as exc:
        # It was checked when it was stored, so it was stored by another version. A message too many is better than one
        # that never comes.
        _log.warning("The filter of subscription %s cannot be used and lets all pass: %s", subscription.id, exc)
        return None
