# SPDX-License-Identifier: Apache-2.0
"""The leased posts of one store: each is expanded into deliveries, piece by piece.

``Pump`` has posts taken (``take``). Each post then goes through ``_expand_piece`` until it is done: read a page of
subscriptions, make a piece for it, store the piece, and pass the deliveries that are due to ``Attempts``.

Projects take turns, a piece at a time, and new posts go before posts that are partly expanded. So a large post does
not delay small posts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from functools import partial

from zaqar.clock import Clock
from zaqar.encryption.messages import Unreadable, UnreadableLog
from zaqar.errors import StoreUnavailable
from zaqar.model import Delivery, Posted, message_id
from zaqar.notification.attempts import Attempts, LeasedDelivery
from zaqar.notification.capacity import SubscriptionBacklog
from zaqar.notification.leased_store import EXTEND_SECONDS, LEASE_SECONDS, LeasedStore, StoreState
from zaqar.notification.pieces import Piece, PieceMaker, size_of_page
from zaqar.notification.subscribers import Subscribers

_log = logging.getLogger(__name__)

MOST_POSTS = 25
MOST_BYTES = 16 * 1024 * 1024
"""Most posts of one store in memory, and most bytes of their bodies if all are as large as they may be.

At most half of them are kept between two of their pieces. Others are handed back, so that there is room for new posts.
"""

LEAST_POSTS = 4
"""Number of posts that may be in memory however large they are."""

MOST_PROJECTS = 10_000
"""Number of queues of which the project is remembered, because a post does not contain it."""

PAUSE_SECONDS = 1.0
"""How long a post stays leased after it was handed back in favour of new posts."""

UNREADABLE_PAUSE_SECONDS = 60.0
"""How long a post stays leased if it has to be filtered and cannot be decrypted."""

FIRST_PIECES = 3
LATER_PIECES = 1
"""Maximum number of pieces that are made at a time: first pieces of new posts, and later pieces."""


@dataclass(slots=True, eq=False)
class _LeasedPost:
    """A post that this notifier has on lease. Times are those of the event loop.

    ``most``: maximum number of subscriptions of a page. ``extended_at``: when the present lease began. ``storing``: a
    piece is being stored, so the stored position may differ from ``posted.position``.
    """

    posted: Posted
    most: int
    taken_at: float
    extended_at: float
    storing: bool = False


class _Turns:
    """Posts that wait for their next piece. Projects take turns; the posts of one project keep their order."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[_LeasedPost]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, project: str, post: _LeasedPost) -> None:
        self._waiting.setdefault(project, deque()).append(post)

    def pop(self) -> _LeasedPost:
        project, waiting = self._waiting.popitem(last=False)
        post = waiting.popleft()
        if waiting:
            self._waiting[project] = waiting
        return post


class LeasedPosts:
    """Takes posts of one store and expands them. ``Pump`` makes it."""

    def __init__(
        self,
        store: LeasedStore,
        state: StoreState,
        backlog: SubscriptionBacklog,
        attempts: Attempts,
        *,
        clock: Clock,
        piece_maker: PieceMaker,
        subscribers: Subscribers,
        pause: float,
        largest: int,
    ) -> None:
        """Call it in an event loop.

        ``pause``: seconds for which nothing is taken after a store did not answer. ``largest``: bytes of the largest
        post.
        """
        self._store = store
        self._state = state
        self._backlog = backlog
        self._attempts = attempts
        self._clock = clock
        self._piece_maker = piece_maker
        self._subscribers = subscribers
        self._pause = pause
        self._most = max(LEAST_POSTS, min(MOST_POSTS, MOST_BYTES // largest))
        self._leased: set[_LeasedPost] = set()
        self._projects: OrderedDict[str, str] = OrderedDict()
        """The project of a queue, by the uid of the queue."""
        self._new = _Turns()
        self._begun = _Turns()
        self._first: set[asyncio.Task[None]] = set()
        """Tasks that make the first piece of a post. The tasks in ``_later`` make a later piece."""
        self._later: set[asyncio.Task[None]] = set()
        self._failed_at = float("-inf")
        self._unreadable = UnreadableLog()
        self._extending = asyncio.create_task(self._extend_leases())

    def __len__(self) -> int:
        return len(self._leased)

    @property
    def room(self) -> int:
        """How many more posts may be taken now: none for a while after a store did not answer."""
        if self._state.stopping.is_set() or _time() < self._failed_at + self._pause:
            return 0
        return max(0, self._most - len(self._leased))

    @property
    def failing(self) -> bool:
        """A store did not answer lately, and the posts for which it was asked have not been taken again since."""
        return _time() < self._failed_at + LEASE_SECONDS + 2 * self._pause

    async def take(self) -> int:
        """Take posts from the store, as many as there is room for, and begin with them; return how many."""
        began = _time()
        posts = await self._store.take_posted(self.room)
        for posted in posts:
            # Subscriptions are read after ``taken_at``, so each that was acknowledged before the post is among them.
            post = _LeasedPost(posted, size_of_page(posted), taken_at=_time(), extended_at=began)
            self._leased.add(post)
            self._new.put(self._project_of(post), post)
        self._start_waiting()
        return len(posts)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        if self._state.stopping.is_set():
            return
        for waiting, tasks, most in ((self._new, self._first, FIRST_PIECES), (self._begun, self._later, LATER_PIECES)):
            while waiting and len(tasks) < most:
                self._start(tasks, waiting.pop())

    def _start(self, tasks: set[asyncio.Task[None]], post: _LeasedPost) -> None:
        if post not in self._leased:
            # The lease was lost while the post waited for its turn: another notifier goes on with it.
            return
        task = asyncio.create_task(self._expand(post))
        tasks.add(task)
        task.add_done_callback(partial(self._ended, tasks))

    def _ended(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        self._start_waiting()
        # There may be room for more posts now, and deliveries to take.
        if self._state.has_posts or self._backlog.worth_taking():
            self._state.woken.set()

    async def _expand(self, post: _LeasedPost) -> None:
        """Make and store one piece, and have the post wait for its next turn unless it is done."""
        try:
            unfinished = await self._expand_piece(post)
        except StoreUnavailable:
            # It is not known whether the piece was stored. The lease ends by itself, and the notifier that takes the
            # post then goes on from the stored position.
            self._failed_at = _time()
            self._leased.discard(post)
            self._state.note_away()
        except Unreadable as exc:
            self._leased.discard(post)
            posted = post.posted
            self._unreadable.note(message_id(posted.queue_uid, posted.first), posted.queue_uid, exc)
            await self._hand_back(post, UNREADABLE_PAUSE_SECONDS)
        except Exception:  # noqa: BLE001, it is logged
            # An error in one post must not stop others. The lease ends by itself, and the post is tried again.
            _log.exception("A post to queue %s cannot be expanded now.", post.posted.queue_uid)
            self._leased.discard(post)
        else:
            self._failed_at = float("-inf")
            if not unfinished:
                self._leased.discard(post)
            elif len(self._begun) < self._most // 2:
                self._begun.put(self._project_of(post), post)
            else:
                self._leased.discard(post)
                await self._hand_back(post, PAUSE_SECONDS)

    async def _expand_piece(self, post: _LeasedPost) -> bool:
        """Make and store the next piece. True if there is more to expand, and no other notifier has gone on with it."""
        posted = post.posted
        page = await self._subscribers.page(posted.queue_uid, posted.position, most=post.most, not_before=post.taken_at)
        if page.subscriptions:
            self._remember_project(posted.queue_uid, page.subscriptions[0].project)
        piece = await self._piece_maker.make(posted, page)
        if post not in self._leased:
            # The lease was lost while the piece was made. Storing it would be refused.
            return False
        began = _time()
        post.storing = True
        try:
            stored = await self._store_piece(posted, piece)
        finally:
            post.storing = False
        if not stored or piece.position is None:
            return False
        post.posted, post.extended_at = replace(posted, position=piece.position), began
        return True

    async def _store_piece(self, posted: Posted, piece: Piece) -> bool:
        """Store a piece and begin to send it. False if another notifier has gone on with the post.

        Deliveries for which there is room are stored with a lease of this notifier, so that no notifier has to take
        them first. The store accepts a piece only if the stored position is the one from which it was made, and then
        stores it whole, in one step. So of two notifiers with the same post, only one sends these deliveries. If this
        process dies before the step, the post is unchanged; if it dies after the step, the leases of the post and of
        the deliveries end, and other notifiers go on with both.
        """
        now, taken_at = self._clock(), _time()
        leased: list[LeasedDelivery] = []
        left_due: set[str] = set()
        deliveries: list[Delivery] = []
        for delivery, subscription in piece.made:
            is_whole = subscription.id not in piece.reduced
            one = self._attempts.try_lease(delivery, subscription, now=now, taken_at=taken_at) if is_whole else None
            if one is not None:
                leased.append(one)
            elif delivery.due <= now:
                left_due.add(subscription.id)
            deliveries.append(delivery if one is None else one.delivery)
        stored = False
        try:
            stored = await self._store.expand(posted, deliveries, piece.position)
        finally:
            # Refused, failed or cancelled. If the call fails although the store took the piece, the deliveries are
            # sent when their leases are over.
            if not stored:
                for one in leased:
                    self._attempts.give_back(one)
        if stored:
            # They were noted when the piece was made. A take that began after that, and before the piece was stored,
            # may have found nothing and removed the note.
            self._backlog.note_due(left_due)
            self._attempts.start(leased)
        return stored

    def _project_of(self, post: _LeasedPost) -> str:
        """The project whose turn a post takes. Until it is known, the queue counts as a project of its own."""
        uid = post.posted.queue_uid
        return self._projects.get(uid, uid)

    def _remember_project(self, queue_uid: str, project: str) -> None:
        self._projects[queue_uid] = project
        self._projects.move_to_end(queue_uid)
        if len(self._projects) > MOST_PROJECTS:
            self._projects.popitem(last=False)

    # -- leases ------------------------------------------------------------------------------------------------------

    async def _extend_leases(self) -> None:
        """Extend leases of posts that wait for their turn or whose piece takes long. A stored piece extends it, too."""
        while True:
            await asyncio.sleep(EXTEND_SECONDS / 2)
            over = _time() - EXTEND_SECONDS
            for post in sorted(self._leased, key=lambda each: each.extended_at):
                if post.extended_at <= over and post in self._leased and not post.storing:
                    await self._extend(post)

    async def _extend(self, post: _LeasedPost) -> None:
        posted, began = post.posted, _time()
        try:
            is_mine = await self._store.extend_post(posted)
        except StoreUnavailable:
            self._state.note_away()
            return
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("The lease of a post to queue %s cannot be extended.", posted.queue_uid)
            return
        if is_mine:
            post.extended_at = max(post.extended_at, began)
        elif post.posted is posted and not post.storing:
            # The stored position is another one, and no piece of this process has moved it: another notifier has the
            # post. If a piece of it is being made here, the store will refuse it.
            self._leased.discard(post)

    async def _hand_back(self, post: _LeasedPost, seconds: float) -> None:
        try:
            await self._store.hand_back_post(post.posted, seconds)
        except StoreUnavailable:
            # The lease ends by itself.
            self._state.note_away()
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("A post to queue %s cannot be handed back.", post.posted.queue_uid)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """After ``StoreState.stop``: let pieces that are under way end, and hand back all posts.

        It may be cancelled: leases end by themselves.
        """
        if self._first or self._later:
            await asyncio.wait(self._first | self._later)
        for post in list(self._leased):
            self._leased.discard(post)
            await self._hand_back(post, 0.0)

    def close(self) -> None:
        """Cancel all tasks. The leases expire."""
        for task in (self._extending, *self._first, *self._later):
            task.cancel()


def _time() -> float:
    return asyncio.get_running_loop().time()
