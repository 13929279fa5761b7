# SPDX-License-Identifier: Apache-2.0
"""Events that clients can repeat are logged once in a period."""

from __future__ import annotations

import logging

import pytest

from tests.clock import FakeClock
from zaqar.transport.websocket.quiet_log import QUIET_SECONDS, QuietLog


def test_each_kind_logs_one_line_in_a_period_with_the_number_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    log = QuietLog(logging.getLogger("quiet"), now=clock)
    with caplog.at_level(logging.INFO, logger="quiet"):
        for number in range(1000):
            log.tell(logging.INFO, "slow", "%d reads too slowly.", number)
        log.tell(logging.WARNING, "full", "It is full.")
        clock.advance(QUIET_SECONDS)
        log.tell(logging.INFO, "slow", "%d reads too slowly.", 1000)
        clock.advance(QUIET_SECONDS)
        log.tell(logging.INFO, "slow", "%d reads too slowly.", 1001)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "0 reads too slowly."),
        (logging.WARNING, "It is full."),
        (logging.INFO, "1000 reads too slowly. Since the last such line there were 999 more."),
        (logging.INFO, "1001 reads too slowly."),
    ]
