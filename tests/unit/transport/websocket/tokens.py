# SPDX-License-Identifier: Apache-2.0
"""A validator of tokens without Keystone. Tests with a real Keystone are in tests/api."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.clock import START
from tests.unit.transport.websocket.frames import PROJECT
from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import KeystoneUnavailable, Unauthorized

ALICE = Identity(PROJECT, "alice", frozenset({"member"}), None, START + 3600)


class Tokens:
    """Replaces the validator. ``rules`` maps a token with access rules to its only (method, path)."""

    cache_seconds = 300.0

    def __init__(self, known: dict[str, Identity], rules: dict[str, tuple[str, str]] | None = None) -> None:
        self.known = known
        self.rules = rules or {}
        self.is_away = False
        self.remembered: set[str] = set()
        self.asked: list[dict[str, Any]] = []

    def start(self) -> None:
        return

    def validate(
        self, token: str, *, service_token: str | None = None, method: str | None = None, path: str | None = None
    ) -> Identity:
        self.asked.append({"token": token, "service_token": service_token, "method": method, "path": path})
        if self.is_away:
            raise KeystoneUnavailable
        rule = self.rules.get(token.strip())
        if token.strip() not in self.known or service_token == "bad" or (rule and method and rule != (method, path)):
            raise Unauthorized("Keystone uri=''")
        if not service_token and not rule:
            self.remembered.add(token.strip())
        return self.known[token.strip()]

    def remembers(self, token: str) -> bool:
        return token in self.remembered


def with_tokens(parts: Parts, tokens: Tokens) -> Parts:
    """The same service, for which callers have to authenticate."""
    validator: Any = tokens
    return dataclasses.replace(parts, tokens=validator)
