# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test advances it."""

START = 1_700_000_000.0

TICK = 0.125
"""The smallest step tests take around a timer. A binary fraction, so that sums of times are exact on every store."""


class FakeClock:
    """A :data:`zaqar.clock.Clock` for tests."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now
