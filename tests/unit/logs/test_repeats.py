# SPDX-License-Identifier: Apache-2.0
"""Equal warnings are left out for a minute, and counted."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from tests.clock import FakeClock
from tests.unit.metrics.test_recorder import series_of
from zaqar.logs import repeats
from zaqar.logs.repeats import REPEAT_SECONDS, RepeatFilter
from zaqar.metrics.families import LOG_SUPPRESSED
from zaqar.metrics.recorder import Recorder


class Log:
    """A filter with a clock, and the lines that it let pass."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.filter = RepeatFilter(monotonic=self.clock)
        self.lines: list[str] = []

    def write(self, text: str, *args: object, level: int = logging.WARNING, logger: str = "zaqar") -> None:
        record = logging.LogRecord(logger, level, "file.py", 1, text, args, None)
        is_shown = self.filter.filter(record)
        if is_shown:
            self.lines.append(record.getMessage())
        # A second handler sees the same.
        assert self.filter.filter(record) is is_shown


def test_the_first_of_equal_warnings_is_written_and_then_one_a_minute_with_a_count() -> None:
    log = Log()
    for _ in range(5):
        log.write("The store '%s' does not answer.", "one")
    log.write("The store '%s' does not answer.", "two")
    log.clock.advance(REPEAT_SECONDS)
    for _ in range(3):
        log.write("The store '%s' does not answer.", "one")
    assert log.lines == [
        "The store 'one' does not answer.",
        "The store 'two' does not answer.",
        "The store 'one' does not answer. (and 4 times more since the last such line)",
    ]


def test_levels_below_a_warning_and_other_loggers_are_not_left_out() -> None:
    log = Log()
    for _ in range(3):
        log.write("a request", level=logging.INFO)
    log.write("a fault", logger="one")
    log.write("a fault", logger="two")
    log.write("a fault", logger="two", level=logging.ERROR)
    assert len(log.lines) == 6


def test_different_lines_take_bounded_memory() -> None:
    log = Log()
    for number in range(3 * repeats.MOST_REMEMBERED):
        log.write("fault %d", number)
    assert len(log.filter._seen) == repeats.MOST_REMEMBERED
    assert len(log.lines) == 3 * repeats.MOST_REMEMBERED


def test_a_warning_that_is_logged_while_another_one_is_filtered_blocks_nothing() -> None:
    log = Log()

    class Name(str):
        __slots__ = ()

        def __hash__(self) -> int:
            # As a finalizer does that the garbage collector runs at this moment.
            log.write("logged in between")
            return super().__hash__()

    writing = threading.Thread(target=lambda: log.write("a fault", logger=Name("one")), daemon=True)
    writing.start()
    writing.join(30)
    assert not writing.is_alive()
    assert log.lines == ["logged in between", "a fault"]


def test_records_that_are_left_out_are_counted_once_whatever_the_number_of_handlers(tmp_path: Path) -> None:
    log, recorder = Log(), Recorder(tmp_path, "api")
    repeats.count_in(recorder)
    try:
        for _ in range(4):
            log.write("a fault")
    finally:
        repeats.count_in(None)
    log.write("a fault")
    assert series_of(tmp_path) == [(LOG_SUPPRESSED, (), (3.0,))]
