# SPDX-License-Identifier: Apache-2.0
"""The formatters and filters that handlers get."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from zaqar import conf as configuration
from zaqar.logs import setup


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The lines of a handler that oslo.log has not made, so that it stays when the log is set up again."""
    handlers = list(logging.root.handlers)
    before = [(each, each.formatter, list(each.filters)) for each in handlers]
    lines = io.StringIO()
    logger, handler = logging.getLogger("tests.logs.setup"), logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logging.root.handlers[:] = handlers
    for each, formatter, filters in before:
        each.formatter, each.filters = formatter, filters


def test_a_handler_that_is_set_up_again_has_each_part_once(stream: io.StringIO) -> None:
    conf = configuration.load([], default_config_files=[])
    logger = logging.getLogger("tests.logs.setup")
    (handler,) = logger.handlers
    for _ in range(3):
        setup.set_up(conf, "api")
        assert len(handler.filters) == 2
    logger.warning("password=abc")
    assert stream.getvalue() == "WARNING password=***\n"
    formatter = handler.formatter
    assert isinstance(formatter, setup.RedactingFormatter)
    assert not isinstance(formatter.inner, setup.RedactingFormatter)
