# SPDX-License-Identifier: Apache-2.0
"""Messages: post, list, get, delete, pop."""

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
    """Messages as they were at ``now``. ``delays`` says that the queue delays its messages by default."""

    messages: list[Message]
    now: float
    delays: bool = False


class _Listing(NamedTuple):
    """What a page shows, but for the client whose messages are left out of it."""

    address: QueueName
    marker: str | None
    limit: int
    include_claimed: bool
    include_delayed: bool


class Messages:
    def __init__(
        self, *, queues: Queues, limits: Limits, clock: Clock, stages: Sequence[Stage], bodies: Bodies, hub: Hub
    ) -> None:
        self._queues = queues
        self._hub = hub
        self._bodies = bodies
        self._leases = Leases(queues=queues, bodies=bodies, clock=clock)
        self._limits = limits
        self._clock = clock
        # PERF: found out once, so that a hook nobody wrote costs a post nothing.
        self._before = hooks_of(stages, "before_post")
        self._after = hooks_of(stages, "after_post")

    def without_stages(self) -> Self:
        """The same for the service's own posts, such as dead letters: they pass no stage of an operator."""
        bare = copy.copy(self)
        bare._before = []
        bare._after = [hook for hook in self._after if isinstance(getattr(hook, "__self__", None), Notifier)]
        return bare

    def post(self, context: Context, address: QueueName, raw: bytes, *, encrypt: bool = False) -> list[str]:
        """Store the messages of a request body, all or none, in a queue that is created if it is missing.

        With ``encrypt`` they are encrypted in a queue that is not as well. Returns their ids, in order.
        """
        posted = parse_post(raw)
        # PERF: what Queues.serve does, without its two calls more: this is the path that is walked most.
        known = self._queues.find(address, create=True)
        for _ in range(TRIES):
            if known is None:
                break
            try:
                ids = self._store(context, known, posted, len(raw), encrypt)
            except (StaleQueue, InvalidInput) as signal:
                known = self._queues.resolve_again(address, known, signal, create=True)
            except PostEnded as ended:
                return ended.ids
            else:
                if monotonic() >= self._hub.check_at:
                    self._hub.posted(known.queue, known.store_ref, ids)
                # Not in the try: what is stored must not be stored once more, whatever a stage raises.
                for hook in self._after:
                    try:
                        hook(context, known.queue, ids)
                    except BaseException as exc:  # noqa: BLE001 - raised again if no stage has raised it
                        note_failure(hook, exc)
                return ids
        raise StoreUnavailable

    def _store(
        self, context: Context, known: ResolvedQueue, posted: list[WireDraft], size: int, encrypt: bool
    ) -> list[str]:
        queue = known.queue
        drafts = make_drafts(posted, size=size, rules=known.rules, limits=self._limits)
        if self._before:
            drafts = run_before_post(self._before, context, known, drafts, self._limits)
        now = self._clock()
        if known.rules.encrypt or encrypt:
            # Last, so that stages and limits see what was posted.
            drafts = self._bodies.seal(queue, drafts, now)
        stored = known.store_ref.store.messages.post(queue=queue, drafts=drafts, client_id=context.client_id, now=now)
        # PERF: ``message_id`` of each, without a call of our own for each.
        return [*map(f"{queue.uid}%012x".__mod__, stored)]

    def prepare_list(
        self,
        context: Context,
        address: QueueName,
        *,
        marker: str | None,
        limit: int,
        echo: bool,
        include_claimed: bool,
        include_delayed: bool,
    ) -> Awaited[MessagePage]:
        """A page after the message that ``marker`` was the id of; empty for a missing queue.

        A marker of another queue, or of an earlier one of this name, is no position in this queue: the page begins at
        its start, so that a consumer that follows a queue through its re-creation misses nothing.
        """
        if marker is not None and not is_message_id(marker):
            raise InvalidInput("marker", "must be the id of a message")
        listing = _Listing(address, marker, limit, include_claimed, include_delayed)
        excluded = None if echo else context.client_id

        def attempt(version: int | None) -> Attempt[MessagePage]:
            page = self._read(listing, excluded) if version is None else self._read_shared(listing, excluded, version)
            return Attempt(page, is_served=bool(page.messages), is_full=False)

        # Also if it shows all messages: READERs are limited as streams.
        return Awaited(address, Kind.FREE_READER, attempt, lambda: MessagePage([], self._clock()), unchanged)

    def _read_shared(self, listing: _Listing, excluded: str | None, version: int) -> MessagePage:
        """The same as :meth:`_read`. All that wait at the same position are served by one read."""
        page = self._hub.shared.read(listing, version, lambda: self._read(listing, None))
        shown = [message for message in page.messages if message.client_id != excluded]
        if len(shown) < len(page.messages) == listing.limit:
            # Messages of the client itself have taken the room of others.
            return self._read(listing, excluded)
        return page._replace(messages=shown)

    def _read(self, listing: _Listing, excluded: str | None) -> MessagePage:
        address, marker, now = listing.address, listing.marker, self._clock()

        def read(known: ResolvedQueue) -> MessagePage:
            messages = known.store_ref.store.messages.list_after(
                queue=known.queue,
                after=(sequence_of(known.queue.uid, marker) or 0) if marker else 0,
                limit=listing.limit,
                now=now,
                exclude_client=excluded,
                include_claimed=listing.include_claimed,
                include_delayed=listing.include_delayed,
            )
            shown = self._bodies.show(address.project, messages)
            return MessagePage(shown, now, known.rules.default_message_delay > 0)

        return self._queues.serve(address, read) or MessagePage([], now)

    def get(self, address: QueueName, message: str) -> MessagePage:
        """A page of that one message; raises NotFound if it is absent, MessageUnreadable if it cannot be decrypted."""
        page = self._find(address, [message])
        error = page.messages[0].error
        if error is not None:
            raise MessageUnreadable(message, error)
        return page

    def get_many(self, address: QueueName, ids: Sequence[str], *, field: str = "ids") -> MessagePage:
        """The messages with these ids that exist, in queue order. Raises NotFound if none does.

        ``field`` is the name of the list in the request, for the error if it is empty or too long.
        """
        return self._find(address, check_ids(ids, most=self._limits.max_messages_per_page, field=field))

    def _find(self, address: QueueName, ids: list[str]) -> MessagePage:
        now = self._clock()
        messages = self._queues.serve(
            address,
            lambda known: known.store_ref.store.messages.get(
                queue=known.queue, sequences=_sequences(known, ids), now=now
            ),
        )
        if not messages:
            raise NotFound(f"There is no such message in '{address.name}'.")
        return MessagePage(self._bodies.show(address.project, messages), now)

    def delete(self, address: QueueName, message: str, *, claim_id: str | None) -> None:
        """Delete one message, under its claim if it has one; an absent one is fine."""
        if claim_id is not None:
            check_id(claim_id, field="claim_id")
        now = self._clock()

        def remove(known: ResolvedQueue) -> None:
            sequence = sequence_of(known.queue.uid, message)
            if sequence is None:
                return
            if claim_id is None and self._limits.message_delete_with_claim_id:
                self._refuse_unclaimed_delete(known, sequence, now)
            known.store_ref.store.messages.delete(queue=known.queue, sequence=sequence, claim_id=claim_id, now=now)

        self._queues.serve(address, remove)

    def _refuse_unclaimed_delete(self, known: ResolvedQueue, sequence: int, now: float) -> None:
        found = known.store_ref.store.messages.get(queue=known.queue, sequences=[sequence], now=now)
        if found and found[0].claim_id is not None:
            raise Forbidden("The message is claimed; give its claim_id.")
        if found:
            raise ClaimOver("This service deletes messages under a claim only; give a claim_id.")

    def delete_many(
        self, address: QueueName, ids: Sequence[str], *, claim_ids: Sequence[str] | None, field: str = "ids"
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
            address,
            lambda known: known.store_ref.store.messages.delete_many(
                queue=known.queue, sequences=_sequences(known, wanted), claim_ids=claims, now=now
            ),
        )

    def prepare_pop(self, address: QueueName, *, limit: int) -> Awaited[MessagePage]:
        """Take the first free messages out for good; empty for a missing queue.

        An attempt raises MessagesUnreadable if so many of them cannot be decrypted that the next request has to go on
        behind them.
        """
        return Awaited(
            address,
            Kind.TAKER,
            lambda _: self._attempt_pop(address, limit),
            lambda: MessagePage([], self._clock()),
            unchanged,
        )

    def _attempt_pop(self, address: QueueName, limit: int) -> Attempt[MessagePage]:
        now = self._clock()

        def take(known: ResolvedQueue) -> list[Message] | None:
            try:
                return (
                    None
                    if known.rules.encrypt
                    else known.store_ref.store.messages.pop(queue=known.queue, limit=limit, now=now)
                )
            except SealedMessages:
                # Such as dead letters of an encrypted queue, in one that is not.
                return None

        popped = self._queues.serve(address, take)
        if popped is None:
            popped, is_full = self._leases.pop(address, limit=limit)
        else:
            is_full = len(popped) == limit
        return Attempt(MessagePage(popped, now), bool(popped), is_full)


def _sequences(known: ResolvedQueue, ids: list[str]) -> list[int]:
    found = (sequence_of(known.queue.uid, id_) for id_ in ids)
    return [sequence for sequence in found if sequence is not None]
