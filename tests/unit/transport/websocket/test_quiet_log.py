# SPDX-License-Identifier: Apache-2.0
"""What clients do again and again is one line in the log from time to time."""

from __future__ import annotations

import logging

import pytest

from tests.clock import FakeClock
from zaqar.transport.websocket.quiet_log import QUIET_SECONDS, QuietLog


def test_of_each_kind_there_is_a_line_now_and_then_which_says_how_many_there_were(
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
