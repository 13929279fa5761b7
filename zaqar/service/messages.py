# SPDX-License-Identifier: Apache-2.0
"""Messages: post, list, get, delete, pop. The transports call it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple, Self

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import (
    ClaimOver,
    Forbidden,
    InvalidInput,
    MessageUnreadable,
    NotFound,
    SealedMessages,
    StaleQueue,
    StoreUnavailable,
)
from zaqar.limits import Limits
from zaqar.model import Message, QueueName, is_message_id, sequence_of
from zaqar.quotas.quotas import Quotas
from zaqar.schemas.fields import check_id
from zaqar.schemas.messages import WireDraft, check_ids, make_drafts, parse_post
from zaqar.service.awaited import Awaited, unchanged
from zaqar.service.bodies import Bodies
from zaqar.service.leases import Leases
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.service.queues import TRIES, Queues
from zaqar.service.staged.posts import PostEnded, run_before_post
from zaqar.stages.base import Stage
from zaqar.stages.notifier import Notifier
from zaqar.stages.pipeline import hooks_of, note_failure
from zaqar.waiting.blocking import Attempt
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Kind


class MessagePage(NamedTuple):
    """Messages as they were at ``now``. ``delays``: the queue delays its messages by default."""

    messages: list[Message]
    now: float
    delays: bool = False


class _Listing(NamedTuple):
    """The parameters of a page, without the client whose messages are left out. Equal listings share a read."""

    queue_name: QueueName
    marker: str | None
    limit: int
    include_claimed: bool
    include_delayed: bool


class Messages:
    """The operations on messages. Threads may share it."""

    def __init__(
        self,
        *,
        queues: Queues,
        limits: Limits,
        clock: Clock,
        stages: Sequence[Stage],
        bodies: Bodies,
        hub: Hub,
        quotas: Quotas | None = None,
    ) -> None:
        self._queues = queues
        self._quotas = quotas or Quotas()
        self._hub = hub
        self._bodies = bodies
        self._leases = Leases(queues=queues, bodies=bodies, clock=clock)
        self._limits = limits
        self._clock = clock
        # PERF: collected once, so that a hook that no stage has takes no time of a post.
        self._before = hooks_of(stages, "before_post")
        self._after = hooks_of(stages, "after_post")

    def without_stages(self) -> Self:
        """Return a copy for posts of the service itself, such as failed deliveries.

        It skips the operator's stages, and no limit of the project applies.
        """
        bare = copy.copy(self)
        bare._quotas = Quotas()
        bare._before = []
        bare._after = [hook for hook in self._after if isinstance(getattr(hook, "__self__", None), Notifier)]
        return bare

    def post(self, context: Context, queue_name: QueueName, raw: bytes, *, encrypt: bool = False) -> list[str]:
        """Store the messages of a request body, all or none, and return their ids in order.

        The queue is created if it is missing. With ``encrypt`` the messages are encrypted even if the queue is not.
        Raises InvalidInput, RateExceeded, QuotaExceeded, the errors of stages, CannotEncrypt and StoreUnavailable.
        """
        posted = parse_post(raw)
        if self._quotas.post_rates is not None:
            self._quotas.post_rates.check_post(queue_name, len(posted), len(raw))
        # PERF: the same steps as in Queues.serve, but two calls less, because no path is taken more often than this
        # one.
        resolved = self._queues.find(queue_name, create=True)
        for _ in range(TRIES):
            if resolved is None:
                break
            try:
                ids = self._store(context, resolved, posted, len(raw), encrypt)
            except (StaleQueue, InvalidInput) as signal:
                resolved = self._queues.resolve_again(queue_name, resolved, signal, create=True)
            except PostEnded as ended:
                return ended.ids
            else:
                if monotonic() >= self._hub.check_at:
                    self._hub.posted(resolved.queue, resolved.store_ref, ids)
                # Outside of the try: an error of these hooks must not store the messages a second time.
                for hook in self._after:
                    try:
                        hook(context, resolved.queue, ids)
                    except BaseException as exc:  # noqa: BLE001 - note_failure() raises it again if it came from outside
                        note_failure(hook, exc)
                return ids
        raise StoreUnavailable

    def _store(
        self, context: Context, resolved: ResolvedQueue, posted: list[WireDraft], size: int, encrypt: bool
    ) -> list[str]:
        queue = resolved.queue
        drafts = make_drafts(posted, size=size, rules=resolved.rules, limits=self._limits, trace=context.trace)
        if self._before:
            drafts = run_before_post(self._before, context, resolved, drafts, self._limits)
        now = self._clock()
        if resolved.rules.encrypt or encrypt:
            # Last, so that stages and limits see the plain bodies.
            drafts = self._bodies.seal(queue, drafts, now)
        usage = self._quotas.usage
        if usage is not None:
            usage.check(queue, drafts)
        stored = resolved.store_ref.store.messages.post(
            queue=queue, drafts=drafts, client_id=context.client_id, now=now, request_id=context.request_id
        )
        if usage is not None:
            usage.add(queue, resolved.store_ref, drafts)
        # PERF: model.message_id() for each, without a call for each.
        return [*map(f"{queue.uid}%012x".__mod__, stored)]

    def prepare_list(
        self,
        context: Context,
        queue_name: QueueName,
        *,
        marker: str | None,
        limit: int,
        echo: bool,
        include_claimed: bool,
        include_delayed: bool,
    ) -> Awaited[MessagePage]:
        """Prepare a page of the messages after the one with the id ``marker``; empty for a missing queue.

        A marker of another queue, or of an earlier queue with this name, is no position in this queue. Then the page
        begins at its start, so that a consumer misses nothing if the queue is deleted and created again. Raises
        InvalidInput if ``marker`` is not the id of a message.
        """
        if marker is not None and not is_message_id(marker):
            raise InvalidInput("marker", "must be the id of a message")
        listing = _Listing(queue_name, marker, limit, include_claimed, include_delayed)
        excluded = None if echo else context.client_id

        def attempt(version: int | None) -> Attempt[MessagePage]:
            page = self._read(listing, excluded) if version is None else self._read_shared(listing, excluded, version)
            return Attempt(page, is_served=bool(page.messages), is_full=False)

        # FREE_READER also if the page shows all messages, because READERs count against the limit of streams.
        return Awaited(queue_name, Kind.FREE_READER, attempt, lambda: MessagePage([], self._clock()), unchanged)

    def _read_shared(self, listing: _Listing, excluded: str | None, version: int) -> MessagePage:
        """Do the same as :meth:`_read`, but with one read for all requests that wait at the same position."""
        page = self._hub.shared.read(listing, version, lambda: self._read(listing, None))
        shown = [message for message in page.messages if message.client_id != excluded]
        if len(shown) < len(page.messages) == listing.limit:
            # The client's own messages filled the page, so there may be others behind them. Read again without them.
            return self._read(listing, excluded)
        return page._replace(messages=shown)

    def _read(self, listing: _Listing, excluded: str | None) -> MessagePage:
        queue_name, marker, now = listing.queue_name, listing.marker, self._clock()

        def read(resolved: ResolvedQueue) -> MessagePage:
            messages = resolved.store_ref.store.messages.list_after(
                queue=resolved.queue,
                after=(sequence_of(resolved.queue.uid, marker) or 0) if marker else 0,
                limit=listing.limit,
                now=now,
                exclude_client=excluded,
                include_claimed=listing.include_claimed,
                include_delayed=listing.include_delayed,
            )
            shown = self._bodies.show(queue_name.project, messages)
            return MessagePage(shown, now, resolved.rules.default_message_delay > 0)

        return self._queues.serve(queue_name, read) or MessagePage([], now)

    def get(self, queue_name: QueueName, message: str) -> MessagePage:
        """Return a page with this message. Raises NotFound, and MessageUnreadable if it cannot be decrypted."""
        page = self._find(queue_name, [message])
        error = page.messages[0].error
        if error is not None:
            raise MessageUnreadable(message, error)
        return page

    def get_many(self, queue_name: QueueName, ids: Sequence[str], *, field: str = "ids") -> MessagePage:
        """Return the messages with these ids that exist, in queue order. Raises NotFound if none exists.

        ``field`` is the name of the list in the request, for the error if it is empty or too long.
        """
        return self._find(queue_name, check_ids(ids, most=self._limits.max_messages_per_page, field=field))

    def _find(self, queue_name: QueueName, ids: list[str]) -> MessagePage:
        now = self._clock()
        messages = self._queues.serve(
            queue_name,
            lambda resolved: resolved.store_ref.store.messages.get(
                queue=resolved.queue, sequences=_sequences(resolved, ids), now=now
            ),
        )
        if not messages:
            raise NotFound(f"There is no such message in '{queue_name.name}'.")
        return MessagePage(self._bodies.show(queue_name.project, messages), now)

    def delete(self, queue_name: QueueName, message: str, *, claim_id: str | None) -> None:
        """Delete a message. If it is claimed, ``claim_id`` has to be that of its claim. An absent message is no error.

        Raises ClaimOver if the claim does not hold the message, and Forbidden if the message is claimed and no claim is
        given.
        """
        if claim_id is not None:
            check_id(claim_id, field="claim_id")
        now = self._clock()

        def remove(resolved: ResolvedQueue) -> None:
            sequence = sequence_of(resolved.queue.uid, message)
            if sequence is None:
                return
            if claim_id is None and self._limits.message_delete_with_claim_id:
                self._refuse_unclaimed_delete(resolved, sequence, now)
            resolved.store_ref.store.messages.delete(
                queue=resolved.queue, sequence=sequence, claim_id=claim_id, now=now
            )

        self._queues.serve(queue_name, remove)

    def _refuse_unclaimed_delete(self, resolved: ResolvedQueue, sequence: int, now: float) -> None:
        found = resolved.store_ref.store.messages.get(queue=resolved.queue, sequences=[sequence], now=now)
        if found and found[0].claim_id is not None:
            raise Forbidden("The message is claimed; give its claim_id.")
        if found:
            raise ClaimOver("This service deletes messages under a claim only; give a claim_id.")

    def delete_many(
        self, queue_name: QueueName, ids: Sequence[str], *, claim_ids: Sequence[str] | None, field: str = "ids"
    ) -> None:
        """Delete the messages with these ids, all or none. Absent ones are no error. ``field`` as in :meth:`get_many`.

        Raises ClaimOver or Forbidden if one of them is not under a claim of ``claim_ids``.
        """
        most = self._limits.max_messages_per_page
        wanted = check_ids(ids, most=most, field=field)
        claims = None if claim_ids is None else frozenset(check_ids(claim_ids, most=most, field="claim_ids"))
        for claim_id in claims or ():
            check_id(claim_id, field="claim_ids")
        if claims is None and self._limits.message_delete_with_claim_id:
            raise InvalidInput("claim_ids", "must hold ids of claims, as this service deletes under a claim only")
        now = self._clock()
        self._queues.serve(
            queue_name,
            lambda resolved: resolved.store_ref.store.messages.delete_many(
                queue=resolved.queue, sequences=_sequences(resolved, wanted), claim_ids=claims, now=now
            ),
        )

    def prepare_pop(self, queue_name: QueueName, *, limit: int) -> Awaited[MessagePage]:
        """Prepare to remove and return the first ``limit`` free messages; none for a missing queue.

        An attempt raises MessagesUnreadable if very many of the first messages cannot be decrypted; then the next
        request continues after them.
        """
        return Awaited(
            queue_name,
            Kind.TAKER,
            lambda _: self._attempt_pop(queue_name, limit),
            lambda: MessagePage([], self._clock()),
            unchanged,
        )

    def _attempt_pop(self, queue_name: QueueName, limit: int) -> Attempt[MessagePage]:
        now = self._clock()

        def take(resolved: ResolvedQueue) -> list[Message] | None:
            try:
                return (
                    None
                    if resolved.rules.encrypt
                    else resolved.store_ref.store.messages.pop(queue=resolved.queue, limit=limit, now=now)
                )
            except SealedMessages:
                # The queue is not encrypted, but it may hold dead letters of an encrypted queue.
                return None

        popped = self._queues.serve(queue_name, take)
        if popped is None:
            popped, is_full = self._leases.pop(queue_name, limit=limit)
        else:
            is_full = len(popped) == limit
        return Attempt(MessagePage(popped, now), bool(popped), is_full)


def _sequences(resolved: ResolvedQueue, ids: list[str]) -> list[int]:
    found = (sequence_of(resolved.queue.uid, id_) for id_ in ids)
    return [sequence for sequence in found if sequence is not None]
