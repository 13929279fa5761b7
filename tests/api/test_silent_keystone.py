# SPDX-License-Identifier: Apache-2.0
"""A Keystone that accepts connections and never answers: validations end after the time-out of the library.

The unit tests of the same class are in tests/unit/access/test_auth_token.py. This one waits in real time, because the
time-out is a whole number of seconds and holds for each request of a validation.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.access.test_auth_token import ask, started
from zaqar.errors import KeystoneUnavailable


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_keystone_that_never_answers_is_unavailable(tmp_path: Path, silent: int) -> None:
    tokens = started(tmp_path, "http_connect_timeout = 1\nhttp_request_max_retries = 0", port=silent)
    began = time.monotonic()
    with pytest.raises(KeystoneUnavailable):
        ask(tokens, "token")
    assert time.monotonic() - began < 15
    with pytest.raises(KeystoneUnavailable):
        tokens.check()
