# SPDX-License-Identifier: Apache-2.0
"""Copies one queue: its metadata, then its messages in their order, then its subscriptions. ``__main__`` calls it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zaqar.upgrade.progress import Progress
from zaqar.upgrade.service import ATTEMPTS, Refused, Service, Unavailable, pause_before, report

SHORTEST_TTL = 60
"""Seconds. The service refuses a shorter TTL of a message or a subscription."""

MOST_POSTED_BYTES = 200_000
"""Size of one request, below the default of ``max_messages_post_size``. A larger message is posted alone."""


class Draft(NamedTuple):
    """A message as it is posted to the target. ``content`` is its JSON."""

    source_id: str
    digest: str
    content: dict[str, Any]
    size: int


@dataclass
class Copied:
    """The result for one queue. ``refused`` has ids of the source, and ``notes`` a sentence for all that differs."""

    queue: str
    read: int = 0
    copied: int = 0
    copied_before: int = 0
    expired: int = 0
    refused: set[str] = field(default_factory=set)
    hidden: int = 0
    subscriptions: int = 0
    is_complete: bool = True
    notes: list[str] = field(default_factory=list)

    def leave(self, note: str) -> None:
        """Note that something was left behind, so the copy is not complete."""
        self.is_complete = False
        self.notes.append(note)


@dataclass(frozen=True)
class Settings:
    """What a run does. ``page`` is the number of messages in one request."""

    project: str
    dry_run: bool = False
    flavors: bool = True
    subscriptions: bool = True
    page: int = 20


class QueueCopy:
    """Copies queues of one project. Nothing is written to the target, nor remembered, in a dry run."""

    def __init__(self, source: Service, target: Service, progress: Progress, settings: Settings) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._settings = settings
        # Some stores of the reference answer a listing that includes claimed messages with 503.
        self._lists_claimed = True

    def copy(self, queue: str) -> Copied:
        """Copy one queue.

        Raises Unavailable if a service does not answer, and Refused if the source does not let the caller read.
        """
        result = Copied(queue)
        metadata = self._source.get("queues", queue) or {}
        if not self._create(queue, metadata, result):
            return result
        self._settle_uncertain(queue)
        for page in self.source_pages(queue):
            self._copy_page(page, int(metadata.get("_default_message_delay") or 0), result)
        if not self._lists_claimed:
            self._count_hidden(result)
        if self._settings.subscriptions:
            self._copy_subscriptions(result)
        return result

    def source_pages(self, queue: str) -> Iterator[list[dict[str, Any]]]:
        """The messages of a queue of the source, oldest first: delayed ones too, and claimed ones if it lists them."""
        if self._lists_claimed:
            try:
                yield from self._source.pages("queues", queue, "messages", query=self._query(claimed=True), attempts=2)
            except Unavailable as exc:
                # The claimed messages of a page that was read are copied; the others are known to the progress file.
                self._lists_claimed = False
                report(f"The source does not list claimed messages, so this run leaves them out: {exc}")
            else:
                return
        yield from self._source.pages("queues", queue, "messages", query=self._query(claimed=False))

    def target_pages(self, queue: str) -> Iterator[list[dict[str, Any]]]:
        """All messages of a queue of the target, oldest first."""
        return self._target.pages("queues", queue, "messages", query=self._query(claimed=True))

    def _query(self, *, claimed: bool) -> dict[str, str]:
        flags = {"echo": "true", "include_delayed": "true", "limit": str(self._settings.page)}
        return flags | ({"include_claimed": "true"} if claimed else {})

    # -- metadata -----------------------------------------------------------------------------------------------------

    def _create(self, queue: str, metadata: dict[str, Any], result: Copied) -> bool:
        """Create the queue with its metadata. Returns False if the target refuses it, so nothing can be copied."""
        wanted = {name: value for name, value in metadata.items() if value is not None}
        # The reference shows it for each queue. The service reads the absence as false.
        if wanted.get("_enable_encrypt_messages") is False:
            del wanted["_enable_encrypt_messages"]
        if not self._settings.flavors:
            wanted.pop("_flavor", None)
        if self._settings.dry_run:
            return True
        try:
            self._target.put("queues", queue, body=wanted)
        except Refused as exc:
            result.leave(f"the target refuses the queue: {exc}")
            return False
        # PUT changes nothing if the queue exists.
        there = self._target.get("queues", queue)
        different = sorted(name for name, value in wanted.items() if there.get(name) != value)
        if different:
            result.leave(f"the queue exists on the target with other metadata: {', '.join(different)}")
        return True

    # -- messages -----------------------------------------------------------------------------------------------------

    def _copy_page(self, page: list[dict[str, Any]], default_delay: int, result: Copied) -> None:
        queue = result.queue
        unknown = self._progress.unknown(self._settings.project, queue, [message["id"] for message in page])
        drafts = []
        for message in page:
            result.read += 1
            if message["id"] not in unknown:
                result.copied_before += 1
            elif message["ttl"] <= message["age"]:
                result.expired += 1
            else:
                drafts.append(draft_of(message, default_delay))
        if self._settings.dry_run:
            result.copied += len(drafts)
            return
        for batch in _batches(drafts):
            self._post(batch, result)

    def _post(self, batch: list[Draft], result: Copied) -> None:
        """Post messages in one request, or one by one if the target refuses them together."""
        try:
            self._post_once(result.queue, batch)
            result.copied += len(batch)
        except Refused as exc:
            # 401 and 403 are about the caller, not about a message.
            if exc.status not in (400, 413):
                raise
            if len(batch) > 1:
                for draft in batch:
                    self._post([draft], result)
                return
            result.refused.add(batch[0].source_id)
            result.leave(f"the target refuses message {batch[0].source_id}: {exc}")

    def _post_once(self, queue: str, batch: list[Draft]) -> None:
        """Post a batch such that it is on the target once, also if the connection breaks before the answer."""
        project = self._settings.project
        for attempt in range(1, ATTEMPTS + 1):
            # The order of these steps makes it safe to end the program anywhere: begin() is on disk before the post, so
            # the next run knows of every message that may be on the target.
            self._progress.begin(project, queue, [(draft.source_id, draft.digest) for draft in batch])
            try:
                body = {"messages": [draft.content for draft in batch]}
                answer = self._target.post("queues", queue, "messages", body=body)
            except Refused:
                self._progress.undo(project, queue)
                raise
            except Unavailable as exc:
                if attempt == ATTEMPTS:
                    raise
                pause_before(attempt, exc)
                if self._settle_uncertain(queue):
                    return
            else:
                ids = [href.rpartition("/")[2] for href in answer["resources"]]
                self._progress.finish(project, queue, [draft.source_id for draft in batch], ids)
                return

    def _settle_uncertain(self, queue: str) -> bool:
        """Find out whether the messages of a broken post are on the target. Returns whether they are.

        A post is atomic, so all or none are there, in a row, behind the last copy that was acknowledged.
        """
        project = self._settings.project
        uncertain = self._progress.uncertain(project, queue)
        if not uncertain.source_ids:
            return False
        count = len(uncertain.source_ids)
        query = self._query(claimed=True) | ({"marker": uncertain.after} if uncertain.after else {})
        ids: list[str] = []
        digests: list[str] = []
        for page in self._target.pages("queues", queue, "messages", query=query):
            ids += [message["id"] for message in page]
            digests += [digest_of(message["body"]) for message in page]
            for start in range(len(digests) - count + 1):
                if digests[start : start + count] == uncertain.digests:
                    self._progress.finish(project, queue, uncertain.source_ids, ids[start : start + count])
                    return True
            ids, digests = ids[-count:], digests[-count:]
        self._progress.undo(project, queue)
        return False

    def _count_hidden(self, result: Copied) -> None:
        stats = self._source.get("queues", result.queue, "stats")["messages"]
        result.hidden = stats["claimed"]
        if result.hidden:
            result.leave(f"{result.hidden} claimed messages are left; run again when their claims are over")

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def _copy_subscriptions(self, result: Copied) -> None:
        # After the messages: their subscribers got them from the source, and a post before the first subscription to a
        # queue is not notified.
        limit = {"limit": str(self._settings.page)}
        for page in self._source.pages("queues", result.queue, "subscriptions", query=limit):
            for subscription in page:
                self._copy_subscription(subscription, result)

    def _copy_subscription(self, subscription: dict[str, Any], result: Copied) -> None:
        left = subscription["ttl"] - subscription["age"]
        name = f"subscription {subscription['id']}"
        if left < SHORTEST_TTL:
            result.notes.append(f"{name} expires within a minute and is left out")
            return
        result.subscriptions += 1
        if self._settings.dry_run:
            return
        path = ("queues", result.queue, "subscriptions")
        wanted = {"subscriber": subscription["subscriber"], "ttl": left, "options": subscription["options"]}
        try:
            created = self._target.post(*path, body=wanted)
        except Refused as exc:
            # 409: an earlier run has made it.
            if exc.status != 409:
                result.subscriptions -= 1
                result.leave(f"the target refuses {name}: {exc}")
            return
        if subscription.get("confirmed"):
            try:
                self._target.put(*path, created["subscription_id"], "confirm", body={"confirmed": True})
            except Refused as exc:
                result.leave(f"{name} was confirmed on the source, and its subscriber has to confirm it again: {exc}")


def draft_of(message: dict[str, Any], default_delay: int) -> Draft:
    """A message of the source as it is posted: with the rest of its TTL, and the rest of the delay of its queue.

    A listing does not show a delay that a message has of its own, so this delay is lost.
    """
    content = {
        "body": message["body"],
        "ttl": max(SHORTEST_TTL, message["ttl"] - message["age"]),
        # Without a delay of its own the message would get the default delay of the queue once more.
        "delay": max(0, default_delay - message["age"]),
    }
    return Draft(message["id"], digest_of(message["body"]), content, len(json.dumps(content)))


def digest_of(body: Any) -> str:
    """A digest of a body that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _batches(drafts: list[Draft]) -> Iterator[list[Draft]]:
    batch: list[Draft] = []
    size = 0
    for draft in drafts:
        if batch and size + draft.size > MOST_POSTED_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(draft)
        size += draft.size
    if batch:
        yield batch
