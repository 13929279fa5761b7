# SPDX-License-Identifier: Apache-2.0
"""Wakes the waiters of a process: after posts and releases here, after wake-ups from elsewhere, and by polling stores.

The service calls :meth:`Hub.posted`, :meth:`Hub.received` and :meth:`Hub.freed` after each change; the transports call
:meth:`Hub.join`. While clients wait, each store is asked once a second for the positions of all queues that are waited
for. So an event of which this process gets no wake-up delays a client by a second at most.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from zaqar.clock import Clock
from zaqar.ipc.wakeup_socket import LISTING_SECONDS, WakeupSender, WakeupSocket, open_wakeup_socket
from zaqar.limits import Limits
from zaqar.model import UID_LENGTH, Queue, QueueName
from zaqar.storage.pools import StoreRef
from zaqar.waiting.background import Background
from zaqar.waiting.polling import SOON_SECONDS, FindQueues, NamePoller, StorePoller
from zaqar.waiting.registry import Registry, Waiter
from zaqar.waiting.shared_reads import SharedReads
from zaqar.waiting.waiters import Kind, Located, Wake, digest_of
from zaqar.waiting.wakeups import Channel, HostListener, WakeupMessage

Remembered = Callable[[QueueName], Located | None]
"""The location of a queue from the cache of this process, which may be stale; None if the cache does not have it."""

BIND_AGAIN_SECONDS = 60.0
"""Time until a process tries again to make its socket after it could not. Each failure is logged."""

_MAX_OTHERS_TOLD = 1000
"""Queues for which the hub remembers when it last told other processes that messages may have arrived."""

_MAX_LOOKED_AT = 100
"""If a store has no more queues than this that are waited for, they are looked at early after datagrams were lost."""

_HOST, _NAMES, _CHANNEL = "host", "names", "channel"


class Hub:
    """Knows all waiters of a process. Any thread may use it. Its own threads run only while clients wait."""

    def __init__(
        self, *, folder: Path, remembered: Remembered, find_queues: FindQueues, clock: Clock, limits: Limits
    ) -> None:
        """``folder`` has the sockets by which processes of this host wake each other."""
        self._folder = folder
        self._remembered = remembered
        self._find_queues = find_queues
        self._clock = clock
        self._wakeup_sender = WakeupSender(folder)
        self.registry = Registry(
            max_waiting=limits.max_waiting_clients,
            max_waiting_per_project=limits.max_waiting_clients_per_project,
            max_streams=limits.max_streams,
            max_streams_per_project=limits.max_streams_per_project,
            passed_on=self._pass_on,
        )
        self.shared = SharedReads()
        self._background = Background()
        self._lock = threading.Lock()
        self._bind_at = float("-inf")
        self._others_told_at: dict[str, float] = {}
        self.check_at = 0.0
        """The time, by ``time.monotonic``, from which a post has to call ``posted``. Before it no client waits."""
        _hubs.add(self)

    def join(self, queue_name: QueueName, kind: Kind, *, wake: Callable[[], None]) -> Waiter:
        """Wait for a queue, which need not exist. ``wake`` must not block. Raises TooManyWaiting."""
        waiter = self.registry.join(queue_name, self._remembered(queue_name), kind, wake=wake)
        with self._lock:
            self.check_at = 0.0
        located = waiter.queue.located
        if located is None:
            self._background.start(_NAMES, self._make_name_poller)
        else:
            self._watch(located)
        self._background.start(_HOST, self._make_listener)
        return waiter

    # -- changes by this process -------------------------------------------------------------------------------------

    def posted(self, queue: Queue, store_ref: StoreRef, ids: list[str]) -> None:
        """Wake waiters: messages with these ids were posted. PERF: callers skip it before the time ``check_at``."""
        if self._is_nobody_waiting():
            return
        queue_name = QueueName(queue.project, queue.kind, queue.name)
        last = int(ids[-1][UID_LENGTH:], 16) if ids else 0
        self._post(queue_name, Located(queue.uid, store_ref), last)

    def received(self, queue: Queue, store_ref: StoreRef) -> None:
        """Wake waiters: this process has put messages into the queue in another way than by a post."""
        if not self._is_nobody_waiting():
            self._post(QueueName(queue.project, queue.kind, queue.name), Located(queue.uid, store_ref), 0)

    def freed(self, queue: Queue) -> None:
        """Wake waiters: messages of the queue are free again."""
        if self._is_nobody_waiting():
            return
        here = self.registry.wake(queue.uid, Wake.FREED, is_own=True)
        wake = Wake.FREE_READERS if here else Wake.FREED
        self._wake_others(wake, QueueName(queue.project, queue.kind, queue.name), queue.uid)

    def may_have_received(self, queue: Queue, store_ref: StoreRef) -> None:
        """Messages may have been put into the queue; only the store knows. Ask it soon if a client waits."""
        if self._is_nobody_waiting():
            return
        self._look(queue.uid, store_ref)
        now = time.monotonic()
        if now >= self._others_told_at.get(queue.uid, 0.0) + SOON_SECONDS:
            if len(self._others_told_at) >= _MAX_OTHERS_TOLD:
                self._others_told_at.clear()
            self._others_told_at[queue.uid] = now
            self._wake_others(Wake(0), QueueName(queue.project, queue.kind, queue.name), queue.uid)

    def drain(self) -> None:
        """Answer every waiting client now, and let no further client wait."""
        self.registry.drain()
        self._background.end()

    def adopt(self, before: Hub) -> None:
        """Take over the waiters of ``before`` after the process has reloaded its configuration. Both hubs share them.

        Their queues are looked up again, because the stores of the former configuration may be closed. Until the
        look-up is done, which takes a moment, the waiters are woken only by posts of this process.
        """
        before.registry.use(self.registry)
        before._remembered, before._find_queues, before.shared = self._remembered, self._find_queues, self.shared
        self.registry, self._background = before.registry, before._background
        self.check_at = 0.0
        if self.registry.waiting:
            self._look_up()

    def _post(self, queue_name: QueueName, located: Located, last: int) -> None:
        here = self.registry.note_queue(queue_name, located, is_own=True, last=last)
        if here:
            self._watch(located)
        self._wake_others(Wake.SHOWN if here else Wake.POSTED, queue_name, located.uid, last)

    def _is_nobody_waiting(self) -> bool:
        if self.registry.waiting or self._wakeup_sender.listeners():
            return False
        with self._lock:
            # listeners() is cached for LISTING_SECONDS, so another process that begins to wait is seen after that time.
            # A waiter that joins here resets check_at under the same lock, so this does not overwrite its reset.
            if not self.registry.waiting:
                self.check_at = time.monotonic() + LISTING_SECONDS
        return True

    def _pass_on(self, queue_name: QueueName, uid: str) -> None:
        self._wake_others(Wake.TAKERS, queue_name, uid)

    def _wake_others(self, wake: Wake, queue_name: QueueName, uid: str, last: int = 0) -> None:
        """Send a wake-up to the other processes of this host."""
        job = self._background.get(_HOST)
        own = job.socket_name if isinstance(job, HostListener) else None
        names = self._wakeup_sender.listeners()
        if names and names != (own,):
            self._wakeup_sender.wake(WakeupMessage(wake, uid, last, digest_of(queue_name)).encode(), except_name=own)

    # -- changes by other processes ----------------------------------------------------------------------------------

    def _handle(self, message: WakeupMessage) -> None:
        """Handle the wake-up of another process of this host."""
        if self.registry.note_other_process(message.digest, message.uid, message.wake, message.last):
            self._look_up()
        elif not message.wake:
            store_ref = self.registry.store_of(message.uid)
            if store_ref is not None:
                self._look(message.uid, store_ref)

    def _look_up(self) -> None:
        """Look up the queues that are waited for and whose uid and store are not known."""
        self._background.start(_NAMES, self._make_name_poller)
        names = self._background.get(_NAMES)
        if names is not None:
            names.nudge()

    def _look_at_all(self) -> None:
        """Look at the queues that are waited for, because datagrams may have been lost.

        If many queues of a store are waited for, the poll once a second is soon enough: posts to any queue can cause
        this call up to ten times a second, and it must not cost a store much.
        """
        for store_ref in self.registry.store_refs():
            uids = self.registry.uids_of(store_ref)
            if len(uids) <= _MAX_LOOKED_AT:
                for uid in uids:
                    self._look(uid, store_ref)

    def _look(self, uid: str, store_ref: StoreRef) -> None:
        poller = self._background.get(store_ref)
        if isinstance(poller, StorePoller):
            poller.look(uid)

    def _watch(self, located: Located) -> None:
        """Poll the store for this queue from now on."""
        self._background.start(located.store_ref, lambda: self._make_poller(located.store_ref))
        self._background.start((_CHANNEL, located.store_ref), lambda: Channel(located.store_ref, self.registry))
        poller = self._background.get(located.store_ref)
        if isinstance(poller, StorePoller):
            poller.look_if_new(located.uid)

    def _found(self, queue_name: QueueName, located: Located) -> None:
        self.registry.note_queue(queue_name, located)
        self._watch(located)

    def _make_listener(self) -> HostListener:
        return HostListener(
            self.registry,
            bind=self._bind,
            handle=self._handle,
            look_at_all=self._look_at_all,
            tidy=lambda: self.shared.drop_old(),
        )

    def _bind(self) -> WakeupSocket | None:
        now = time.monotonic()
        if now < self._bind_at:
            return None
        listener = open_wakeup_socket(self._folder)
        if listener is None:
            self._bind_at = now + BIND_AGAIN_SECONDS
        return listener

    def _make_name_poller(self) -> NamePoller:
        # A lambda, because a reload replaces the function while the poller goes on.
        return NamePoller(self.registry, lambda queue_names: self._find_queues(queue_names), self._found)

    def _make_poller(self, store_ref: StoreRef) -> StorePoller:
        return StorePoller(store_ref, self.registry, self._clock, lost=self._look_up)

    # -- processes ---------------------------------------------------------------------------------------------------

    def renew_in_child(self) -> None:
        """Begin without waiters in a child process. The waiters, threads and the socket belong to the parent."""
        listener = self._background.get(_HOST)
        if isinstance(listener, HostListener):
            listener.abandon()
        self._background.reset()
        self._lock = threading.Lock()
        self.registry.reset()
        self.shared = SharedReads()
        self.check_at = 0.0


_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _renew_in_child() -> None:
    for hub in list(_hubs):
        hub.renew_in_child()


os.register_at_fork(after_in_child=_renew_in_child)
