# SPDX-License-Identifier: Apache-2.0
"""Bodies on their way into a message store and out of it: sealed for encrypted queues, opened for whoever reads.

What one request cannot read hurts no other message: a listing shows it with an error, a claim and a pop pass over it
and leave it leased for ``PASSED_OVER_SECONDS``, so that the next ones come past it too. It is never removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zaqar.encryption.messages import MessageKeys, Unreadable, UnreadableLog
from zaqar.errors import CannotEncrypt
from zaqar.model import SEALED, Draft, Message, Queue
from zaqar.schemas.messages import make_checksum

PASSED_OVER_SECONDS = 300
"""How long claims and pops leave a message alone that could not be read, so also how soon they find that it can be."""

MOST_ROUNDS = 50
"""Takes of one claim or pop of which no message could be read. The next request goes on behind them."""

_SEALED = bytes((SEALED,))


class Bodies:
    """Safe for threads."""

    def __init__(self, keys: MessageKeys, *, enable_checksum: bool = False) -> None:
        self._keys = keys
        self._enable_checksum = enable_checksum
        self._unreadable = UnreadableLog()

    def seal(self, queue: Queue, drafts: Sequence[Draft], now: float) -> list[Draft]:
        """The drafts as an encrypted queue stores them, without checksums, which would tell of the plain bodies.

        Raises CannotEncrypt if the service has no key.
        """
        if self._keys.refusal is not None:
            raise CannotEncrypt(self._keys.refusal)
        seal, uid, project = self._keys.seal, queue.uid, queue.project
        return [
            Draft(seal(draft.body, queue_uid=uid, project=project, now=now), draft.ttl, draft.delay) for draft in drafts
        ]

    def show(self, project: str, messages: list[Message]) -> list[Message]:
        """The messages with plain bodies; one that cannot be read has the body null and an ``error``."""
        # PERF: a page of a queue that is not encrypted costs one comparison for each message.
        for message in messages:
            if message.body[:1] == _SEALED:
                return [self._opened(project, each) for each in messages]
        return messages

    def readable(self, project: str, messages: list[Message]) -> list[Message]:
        """The messages with plain bodies, without those that cannot be read."""
        shown = self.show(project, messages)
        return shown if shown is messages else [message for message in shown if message.error is None]

    def _opened(self, project: str, message: Message) -> Message:
        if message.body[:1] != _SEALED:
            return message
        try:
            body = self._keys.open(message.body, project=project)
        except Unreadable as exc:
            self._unreadable.note(message.id, message.queue_uid, exc)
            return replace(message, body=b"null", error=f"This message cannot be decrypted: {exc}.")
        return replace(message, body=body, checksum=make_checksum(body) if self._enable_checksum else None)
