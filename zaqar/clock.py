# SPDX-License-Identifier: Apache-2.0
"""Where the time comes from.

Every operation reads the clock once, in the service layer, and hands the value down as ``now``. A store never asks
for the time itself, so a test drives every timer by passing another ``now``.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns the time as float seconds since the epoch, UTC."""

system_clock: Clock = time.time

CLOCKS_APART = 60.0
"""Seconds by which the clocks of two hosts may differ: what must not be undone waits that much longer."""
