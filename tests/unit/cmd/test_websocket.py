# SPDX-License-Identifier: Apache-2.0
"""The decisions of ``zaqar-websocket`` before it serves clients. Real servers are in the acceptance tests."""

from __future__ import annotations

import logging
import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.metrics.test_recorder import series_of
from zaqar import app
from zaqar import conf as configuration
from zaqar.cmd import websocket
from zaqar.metrics.families import MESSAGES_POSTED, WAITING_CLIENTS
from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.store import MemoryMessageStore
from zaqar.transport.websocket.settings import Settings


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restores the signal handlers, because the command runs in the process of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_help_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        websocket.main(["--help"])
    text = capsys.readouterr().out
    for word in ("TERM", "HUP", "--config-file", "--version", "zaqar-server", "127.0.0.1:9000"):
        assert word in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        websocket.main(["--version"])
    assert re.fullmatch(r"zaqar-websocket \d\S+\n", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["--bind", "9000"], ["--fd", "x"], ["--fd", "3", "--bind", "h:1"]], ids=" ".join)
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        websocket.main(arguments)
    assert "--bind" in capsys.readouterr().err


@pytest.mark.parametrize("bind", ["192.0.2.1", "nosuch.invalid"])
def test_an_address_that_is_not_here_names_the_option(
    bind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[DEFAULT]\nstate_dir = {tmp_path / 'state'}\n[drivers:transport:websocket]\nbind = {bind}\n")
    assert websocket.main(["--config-file", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zaqar-websocket: Cannot listen on {bind}:9000: ")
    assert "[drivers:transport:websocket] bind and port" in line


class Limit:
    """The limit of open files of a process: (soft, hard)."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _: int, limit: tuple[int, int]) -> None:
        self.now = limit


@pytest.mark.parametrize(
    ("limit", "soft", "connections"),
    [
        ((1024, 4096), 1356, 1000),
        ((1024, 1356), 1356, 1000),
        ((1024, 1355), 1355, 999),
        ((1024, 1100), 1100, 767),
        ((300, 300), 300, 28),
        ((100, 100), 100, 1),
        ((1024, resource.RLIM_INFINITY), 1356, 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), resource.RLIM_INFINITY, 1000),
        ((9999, 9999), 9999, 1000),
    ],
)
def test_the_limit_of_open_files_limits_the_connections(
    limit: tuple[int, int],
    soft: int,
    connections: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = Limit(*limit)
    monkeypatch.setattr(resource, "getrlimit", files.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", files.setrlimit)
    conf = configuration.load(default_config_files=[])
    conf.set_override("max_connections", 1000, "drivers:transport:websocket")
    with caplog.at_level(logging.WARNING, logger="zaqar.cmd.websocket"):
        assert websocket._settings(conf).max_connections == connections
    assert files.now == (soft, limit[1])
    said = f"may have {limit[1]} (ulimit -Hn); more than {connections} connections will be refused"
    assert (said in caplog.text) == (connections < 1000)


def test_no_port_is_open_to_other_hosts_if_none_of_them_has_the_database(tmp_path: Path) -> None:
    def host(**options: str) -> str | None:
        conf = configuration.load(default_config_files=[])
        conf.set_override("state_dir", str(tmp_path))
        for name, value in options.items():
            group, _, option = name.rpartition("__")
            conf.set_override(option, value, group.replace("__", ":"))
        return websocket._notification_host(conf)

    assert host() == "127.0.0.1"
    assert host(drivers__transport__websocket__notification_bind="192.0.2.1") == "192.0.2.1"
    # None stands for the name of the host.
    assert host(drivers__management_store__sqlalchemy__uri="postgresql://db/zaqar") is None
    assert host(drivers__management_store="redis") is None


def test_a_frame_may_be_larger_than_a_post() -> None:
    conf = configuration.load(default_config_files=[])
    conf.set_override("max_messages_post_size", 1000, "transport")
    assert Settings.from_conf(conf).max_frame_size == 1000 + 64 * 1024


def test_a_reload_goes_on_with_the_recorder_so_that_each_gauge_is_shown_once(tmp_path: Path) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[DEFAULT]\nstate_dir = {tmp_path}\n")
    arguments = ["--config-file", str(file)]
    stores = {"management": MemoryManagementStore(), "messages": MemoryMessageStore()}
    before = app.build(configuration.load(arguments), part="websocket", **stores)
    with socket.socket() as listener:
        after = websocket._Process(before, listener, arguments)._make_parts()
    assert after is not before
    assert after.recorder is before.recorder is not None
    after.recorder.add(MESSAGES_POSTED)
    after.recorder.sample()
    waiting = [each.labels for each in series_of(tmp_path / "metrics") if each.family is WAITING_CLIENTS]
    assert sorted(waiting) == [("claim",), ("list",), ("stream",)]
    after.close()
