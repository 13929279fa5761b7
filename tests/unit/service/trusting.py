# SPDX-License-Identifier: Apache-2.0
"""A Keystone in memory that makes trusts, for tests of the service."""

from __future__ import annotations

from dataclasses import dataclass

from tests.clock import FakeClock
from zaqar.context import Context
from zaqar.errors import Forbidden, InvalidInput, KeystoneUnavailable
from zaqar.service.subscription_trusts import TrustMaker


@dataclass(frozen=True)
class Made:
    id: str
    user_id: str
    expires: float


class Keystone(TrustMaker):
    """The id of a trust begins with the user who made it. ``brought`` has the users of trusts made by clients."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.made: list[Made] = []
        self.brought: dict[str, str] = {}
        self.checked: list[str] = []
        self.away = False

    def create(self, context: Context, *, expires: float) -> Made:
        if self.away:
            raise KeystoneUnavailable
        if context.token is None:
            raise Forbidden("no token")
        assert context.user_id is not None
        self.made.append(Made(f"{context.user_id}-{len(self.made)}", context.user_id, expires))
        return self.made[-1]

    def check(self, context: Context, trust_id: str) -> None:
        if self.away:
            raise KeystoneUnavailable
        self.checked.append(trust_id)
        owners = {each.id: each.user_id for each in self.made} | self.brought
        if owners.get(trust_id) != context.user_id:
            raise InvalidInput("options.trust_id", "must be your own")
