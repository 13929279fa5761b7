# SPDX-License-Identifier: Apache-2.0
"""The limit of open files, as the WebSocket server and the workers of gunicorn raise it."""

from __future__ import annotations

import resource

import pytest

from zaqar.cmd import open_files
from zaqar.cmd.server import gunicorn_worker

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "most", "then"),
    [
        (256, 4096, 4096, 1000),
        (256, 700, 700, 700),
        (2000, 4096, 4096, 2000),
        (256, NO_LIMIT, 1000, 1000),
        (NO_LIMIT, NO_LIMIT, 1000, NO_LIMIT),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_needed(
    soft: int, hard: int, most: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(soft, hard, monkeypatch)
    assert open_files.allow(1000) == most
    assert (limit.soft, limit.hard) == (then, hard)


def test_a_worker_has_the_connections_that_it_has_open_files_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = Limit(256, 1256, monkeypatch)
    assert gunicorn_worker._allow_connections(1000) == 1000
    assert caplog.text == ""
    limit.soft, limit.hard = 256, 700
    assert gunicorn_worker._allow_connections(1000) == 444
    assert "1000 connections need 1256 open files, and a worker may have 700 (ulimit -Hn)" in caplog.text
    limit.soft, limit.hard = 64, 64
    assert gunicorn_worker._allow_connections(1000) == 1


class Limit:
    """A simulated limit of open files: tests do not change that of the process."""

    def __init__(self, soft: int, hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.soft, self.hard = soft, hard
        monkeypatch.setattr(resource, "getrlimit", lambda _: (self.soft, self.hard))
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _: int, limits: tuple[int, int]) -> None:
        self.soft, self.hard = limits
