# SPDX-License-Identifier: Apache-2.0
"""The parts of two processes over the same stores, and clients that wait in them, each in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zaqar import app, conf
from zaqar.context import Context
from zaqar.model import QUEUE, QueueName
from zaqar.waiting.blocking import Attempt, wait_for
from zaqar.waiting.waiters import Kind

QUEUE_NAME = QueueName("shop", QUEUE, "orders")
CALLER = Context("shop", "c" * 32)
SECONDS = 20.0
"""How long a test waits for an event that should happen at once."""


def build(state_dir: Path, **stores: Any) -> app.Parts:
    """The parts of a process; without ``stores`` they are on the SQLite file in the state directory."""
    loaded = conf.load([], default_config_files=[])
    loaded.set_override("state_dir", str(state_dir))
    return app.build(loaded, **stores)


class Process:
    def __init__(self, parts: app.Parts) -> None:
        self.parts = parts

    def post(self, *bodies: str, queue_name: QueueName = QUEUE_NAME) -> list[str]:
        raw = json.dumps({"messages": [{"body": body} for body in bodies]}).encode()
        return self.parts.messages.post(CALLER, queue_name, raw)

    def claim(self, limit: int = 1, queue_name: QueueName = QUEUE_NAME) -> tuple[str, list[str]]:
        claimed = self.parts.claims.prepare(queue_name, b"", limit=limit).answer_now()
        return claimed.claim.id, [json.loads(message.body) for message in claimed.messages]

    def attempt(self, limit: int = 1, queue_name: QueueName = QUEUE_NAME) -> Attempt:
        _, bodies = self.claim(limit, queue_name)
        return Attempt(bodies, bool(bodies), len(bodies) == limit)


class WaitingClaim:
    """A client that waits for a message. ``bodies`` returns those of its answer."""

    def __init__(
        self,
        process: Process,
        *,
        seconds: float = SECONDS,
        limit: int = 1,
        queue_name: QueueName = QUEUE_NAME,
        attempt: Callable[[int], Attempt] | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.answer: Attempt | None = None
        self.attempts = 0
        self._registry = process.parts.hub.registry

        def counted(version: int) -> Attempt:
            self.attempts += 1
            return attempt(version) if attempt is not None else process.attempt(limit, queue_name)

        def wait() -> None:
            try:
                self.answer = wait_for(
                    process.parts.hub,
                    queue_name,
                    Kind.TAKER,
                    seconds=seconds,
                    attempt=counted,
                    is_gone=lambda: False,
                )
            except Exception as exc:  # noqa: BLE001, the test checks it
                self.error = exc

        waiting = self._registry.waiting
        self.thread = threading.Thread(target=wait, daemon=True)
        self.thread.start()
        until(lambda: self._registry.waiting > waiting or not self.thread.is_alive())

    @property
    def bodies(self) -> Any:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return [] if self.answer is None else self.answer.answer


def until(condition: Callable[[], object]) -> None:
    """Wait until the condition is met."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("It has not happened.")
