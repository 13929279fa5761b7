# SPDX-License-Identifier: Apache-2.0
"""Encrypts message bodies before a message store gets them, and decrypts them after it returned them.

``Messages``, ``Claims`` and ``Streams`` use it. A message that cannot be decrypted does not affect other messages: a
listing shows it with an error; a claim or pop skips it and leaves it leased for ``PASSED_OVER_SECONDS``, so that later
claims and pops skip it too. It is never removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zaqar.encryption.messages import MessageKeys, Unreadable, UnreadableLog
from zaqar.errors import CannotEncrypt
from zaqar.model import SEALED, Draft, Message, Queue
from zaqar.schemas.messages import make_checksum

PASSED_OVER_SECONDS = 300
"""How long claims and pops skip a message that could not be decrypted. After that time they try it again."""

MOST_ROUNDS = 50
"""Batches without a readable message after which one claim or pop gives up. The next request continues after them."""

_SEALED = bytes((SEALED,))


class Bodies:
    """Encrypts and decrypts bodies. Threads may share it."""

    def __init__(self, keys: MessageKeys, *, enable_checksum: bool = False) -> None:
        self._keys = keys
        self._enable_checksum = enable_checksum
        self._unreadable = UnreadableLog()

    def seal(self, queue: Queue, drafts: Sequence[Draft], now: float) -> list[Draft]:
        """Return encrypted drafts. They have no checksums, because a checksum would reveal something of the plain body.

        Raises CannotEncrypt if the service has no key.
        """
        if self._keys.refusal is not None:
            raise CannotEncrypt(self._keys.refusal)
        seal, uid, project = self._keys.seal, queue.uid, queue.project
        return [
            replace(draft, body=seal(draft.body, queue_uid=uid, project=project, now=now), checksum=None)
            for draft in drafts
        ]

    def show(self, project: str, messages: list[Message]) -> list[Message]:
        """Return the messages with plain bodies. An unreadable message gets the body null and an ``error``."""
        # PERF: if nothing is encrypted, this takes one comparison for each message.
        for message in messages:
            if message.body[:1] == _SEALED:
                return [self._opened(project, each) for each in messages]
        return messages

    def readable(self, project: str, messages: list[Message]) -> list[Message]:
        """Return the messages with plain bodies, without messages that cannot be decrypted."""
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
