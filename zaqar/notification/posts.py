# SPDX-License-Identifier: Apache-2.0
"""The posts of one store that this notifier has on lease: each is expanded into deliveries, piece by piece.

A pump has them taken and is told of each piece. Posts take turns by project, a piece each, and a post that nobody has
begun with goes before those that are expanded in part: so a large post holds up no small one. The lease of each lasts
until it is expanded. If another notifier goes on from its position, this one leaves it alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from zaqar.encryption.messages import Unreadable, UnreadableLog
from zaqar.errors import StoreUnavailable
from zaqar.model import Posted, message_id
from zaqar.notification.expansion import Expander, Piece, size_of_page
from zaqar.notification.jobs import EXTEND_SECONDS, LEASE_SECONDS
from zaqar.notification.store import LeasedStore
from zaqar.notification.subscribers import Subscribers

_log = logging.getLogger(__name__)

MOST_POSTS = 25
MOST_BYTES = 16 * 1024 * 1024
"""Posts of one store that are in memory at a time, and the bytes of their bodies if all are as large as they may be.

At most half of them are kept between two of their pieces. Others are handed back, so that there is room for new ones.
"""

LEAST_POSTS = 4
"""Posts that may be in memory however large they are."""

MOST_PROJECTS = 10_000
"""Queues of which it is remembered whose they are: a post does not say."""

PAUSE_SECONDS = 1.0
"""How long a post that was handed back is left alone."""

UNREADABLE_PAUSE_SECONDS = 60.0
"""How long a post is left alone that cannot be decrypted, which has to be done to filter it."""

FIRST_PIECES = 3
LATER_PIECES = 1
"""Pieces that are made at a time: of posts that nobody has begun with, and of others."""


class StorePiece(Protocol):
    """Stores a piece and begins to send it; False if another notifier has gone on with the post."""

    async def __call__(self, posted: Posted, piece: Piece, /) -> bool: ...


@dataclass(slots=True, eq=False)
class _Held:
    """A post on lease. The times are those of the event loop.

    ``most``: subscriptions of a page. ``extended_at``: when the present lease began. ``storing``: a piece is being
    stored, so that the stored position may be another one already.
    """

    posted: Posted
    most: int
    taken_at: float
    extended_at: float
    storing: bool = False


class _Turns:
    """Posts that wait, in turns by project; those of one project in their order."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[_Held]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, project: str, held: _Held) -> None:
        self._waiting.setdefault(project, deque()).append(held)

    def pop(self) -> _Held:
        project, waiting = self._waiting.popitem(last=False)
        held = waiting.popleft()
        if waiting:
            self._waiting[project] = waiting
        return held


class LeasedPosts:
    """Made and used in an event loop. ``changed`` is called after each piece, ``away`` when a store does not answer."""

    def __init__(
        self,
        store: LeasedStore,
        *,
        expander: Expander,
        subscribers: Subscribers,
        store_piece: StorePiece,
        changed: Callable[[], None],
        away: Callable[[], None],
        pause: float,
        largest: int,
    ) -> None:
        self._store = store
        self._expander = expander
        self._subscribers = subscribers
        self._store_piece = store_piece
        self._changed = changed
        self._away = away
        self._pause = pause
        self._most = max(LEAST_POSTS, min(MOST_POSTS, MOST_BYTES // largest))
        self._held: set[_Held] = set()
        self._projects: OrderedDict[str, str] = OrderedDict()
        """By uid of a queue."""
        self._new = _Turns()
        self._begun = _Turns()
        self._first: set[asyncio.Task[None]] = set()
        self._later: set[asyncio.Task[None]] = set()
        self._failed_at = float("-inf")
        self._unreadable = UnreadableLog()
        self._stopping = False
        self._extending = asyncio.create_task(self._extend_leases())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """How many more may be taken now: none for a while after a store did not answer."""
        if self._stopping or _time() < self._failed_at + self._pause:
            return 0
        return max(0, self._most - len(self._held))

    @property
    def failing(self) -> bool:
        """A store did not answer lately, and the posts for which it was asked have not come up again since."""
        return _time() < self._failed_at + LEASE_SECONDS + 2 * self._pause

    async def take(self) -> int:
        """Take posts of the store for which there is room, and begin with them; return how many."""
        began = _time()
        posts = await self._store.take_posted(self.room)
        for posted in posts:
            # Subscriptions are read after this, so each that was acknowledged before the post is among them.
            held = _Held(posted, size_of_page(posted), taken_at=_time(), extended_at=began)
            self._held.add(held)
            self._new.put(self._project_of(held), held)
        self._begin()
        return len(posts)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._stopping:
            return
        for waiting, tasks, most in ((self._new, self._first, FIRST_PIECES), (self._begun, self._later, LATER_PIECES)):
            while waiting and len(tasks) < most:
                self._start(tasks, waiting.pop())

    def _start(self, tasks: set[asyncio.Task[None]], held: _Held) -> None:
        if held not in self._held:
            # Another notifier has gone on with it meanwhile.
            return
        task = asyncio.create_task(self._expand(held))
        tasks.add(task)
        task.add_done_callback(partial(self._ended, tasks))

    def _ended(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        self._begin()
        self._changed()

    async def _expand(self, held: _Held) -> None:
        """Make one piece, and have the post wait for its next turn unless that was the last one."""
        try:
            unfinished = await self._expand_piece(held)
        except StoreUnavailable:
            # The lease ends by itself, and somebody goes on from where the post is then.
            self._failed_at = _time()
            self._held.discard(held)
            self._away()
        except Unreadable as exc:
            self._held.discard(held)
            posted = held.posted
            self._unreadable.note(message_id(posted.queue_uid, posted.first), posted.queue_uid, exc)
            await self._hand_back(held, UNREADABLE_PAUSE_SECONDS)
        except Exception:  # noqa: BLE001, it is logged
            # Whatever is wrong with one post, those of others must not suffer from it.
            _log.exception("A post to queue %s cannot be expanded now.", held.posted.queue_uid)
            self._held.discard(held)
        else:
            self._failed_at = float("-inf")
            if not unfinished:
                self._held.discard(held)
            elif len(self._begun) < self._most // 2:
                self._begun.put(self._project_of(held), held)
            else:
                self._held.discard(held)
                await self._hand_back(held, PAUSE_SECONDS)

    async def _expand_piece(self, held: _Held) -> bool:
        """Whether the post is to be expanded further: it is not done, and no other notifier has gone on with it."""
        posted = held.posted
        page = await self._subscribers.page(posted.queue_uid, posted.position, most=held.most, not_before=held.taken_at)
        if page.subscriptions:
            self._remember_project(posted.queue_uid, page.subscriptions[0].project)
        piece = await self._expander.piece(posted, page)
        if held not in self._held:
            return False
        began = _time()
        held.storing = True
        try:
            stored = await self._store_piece(posted, piece)
        finally:
            held.storing = False
        if not stored or piece.position is None:
            return False
        held.posted, held.extended_at = replace(posted, position=piece.position), began
        return True

    def _project_of(self, held: _Held) -> str:
        """Whose turn it is: until the project of the queue is known, that of the queue alone."""
        uid = held.posted.queue_uid
        return self._projects.get(uid, uid)

    def _remember_project(self, queue_uid: str, project: str) -> None:
        self._projects[queue_uid] = project
        self._projects.move_to_end(queue_uid)
        if len(self._projects) > MOST_PROJECTS:
            self._projects.popitem(last=False)

    # -- leases ------------------------------------------------------------------------------------------------------

    async def _extend_leases(self) -> None:
        """Of the posts that wait for their turn, or for a piece that takes long. A piece that is stored does it too."""
        while True:
            await asyncio.sleep(EXTEND_SECONDS / 2)
            over = _time() - EXTEND_SECONDS
            for held in sorted(self._held, key=lambda each: each.extended_at):
                if held.extended_at <= over and held in self._held and not held.storing:
                    await self._extend(held)

    async def _extend(self, held: _Held) -> None:
        posted, began = held.posted, _time()
        try:
            is_mine = await self._store.extend_post(posted)
        except StoreUnavailable:
            self._away()
            return
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("The lease of a post to queue %s cannot be extended.", posted.queue_uid)
            return
        if is_mine:
            held.extended_at = max(held.extended_at, began)
        elif held.posted is posted and not held.storing:
            # Not this notifier moved it. What is under way for it finds out when it is to be stored.
            self._held.discard(held)

    async def _hand_back(self, held: _Held, seconds: float) -> None:
        try:
            await self._store.hand_back_post(held.posted, seconds)
        except StoreUnavailable:
            # Then the lease ends by itself.
            self._away()
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("A post to queue %s cannot be handed back.", held.posted.queue_uid)

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin no more pieces."""
        self._stopping = True

    async def finish(self) -> None:
        """After ``stop``: let pieces that are under way end, and hand back all posts. To cancel it is safe."""
        if self._first or self._later:
            await asyncio.wait(self._first | self._later)
        for held in list(self._held):
            self._held.discard(held)
            await self._hand_back(held, 0.0)

    def close(self) -> None:
        """Break off what is under way; leases end by themselves."""
        for task in (self._extending, *self._first, *self._later):
            task.cancel()


def _time() -> float:
    return asyncio.get_running_loop().time()
