# SPDX-License-Identifier: Apache-2.0
"""Calls the handlers of actions as the session does, on stores in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from tests.clock import FakeClock
from zaqar import app, conf
from zaqar.context import Context
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.schemas import strict_json
from zaqar.storage.base.nodes import Node
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.action import Action, Answer, Call

CONNECTION = "c0ffee"


class Caller:
    """A caller on a connection of a node. ``roles``, ``project`` and ``connection`` apply to the next calls."""

    def __init__(self, actions: Sequence[Action], **options: Any) -> None:
        configuration = conf.load(default_config_files=[])
        for name, value in {"admin_mode": True, **options}.items():
            group, _, option = name.rpartition("__")
            configuration.set_override(option, value, group or None)
        self.clock = FakeClock()
        self.parts = app.build(
            configuration, clock=self.clock, management=MemoryManagementStore(), messages=MemoryMessageStore()
        )
        node = Node("ab" * 12, "here", "127.0.0.1", 1, "", self.clock.now + 86_400, b"key")
        self.parts.management.nodes.add(node=node)
        self.parts.connection_subscriptions.serve_as(node.id)
        self._actions = {action.name: action for action in actions}
        self.begin()

    def begin(self) -> None:
        """Become another administrator, in an empty project."""
        self.connection = CONNECTION
        self.roles = {"admin"}
        self.project = uuid.uuid4().hex

    def call(
        self,
        action: str,
        /,
        grant: Callable[[Sequence[str]], bool] | None = None,
        *,
        signed: bool = False,
        **body: Any,
    ) -> Answer:
        """The answer of the action to a body. ``signed``: a pre-signed URL admits the caller."""
        queue_name = None
        for kind in (QUEUE, TOPIC):
            if f"{kind}_name" in body:
                queue_name = QueueName(self.project, kind, body[f"{kind}_name"])
        context = Context(self.project, "client", frozenset(self.roles), signed=signed or grant is not None)
        known = {name: value for name, value in body.items() if name in self._actions[action].fields}
        call = Call(context, queue_name, known, strict_json.encode(body), self.connection, grant)
        return self._actions[action].handle(self.parts, call)
