# SPDX-License-Identifier: Apache-2.0
"""The clock of the service.

Every operation reads the clock once, in the service layer, and passes the value down as ``now``. A store never reads
a clock itself, so a test can move every timer by passing another ``now``.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns the time as float seconds since the epoch, UTC."""

system_clock: Clock = time.time

MAX_CLOCK_SKEW = 60.0
"""Seconds by which the clocks of two hosts may differ. A step that cannot be undone waits that much longer."""
