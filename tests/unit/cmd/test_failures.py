# SPDX-License-Identifier: Apache-2.0
"""A command that cannot do its work ends with one sentence and an exit status."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from zaqar.cmd import db_manage, failures, gc, notifier, status, websocket
from zaqar.cmd.server import main
from zaqar.errors import StoreUnavailable

SECRET = "s3cr3t"

Main = Callable[[Sequence[str]], int]

COMMANDS: dict[str, tuple[Main, tuple[str, ...]]] = {
    "zaqar-server": (main.main, ("--bind=127.0.0.1:0", "--websocket-bind=127.0.0.1:0")),
    "zaqar-websocket": (websocket.main, ("--bind=127.0.0.1:0",)),
    "zaqar-notifier": (notifier.main, ()),
    "zaqar-gc": (gc.main, ()),
    "zaqar-status": (status.main, ("upgrade", "check")),
    "zaqar-sql-db-manage": (db_manage.main, ("current",)),
}

MISTAKES = {
    b"# caf\xe9\n": "is not a text file in UTF-8: byte 0xe9 in line 3",
    b"[signed_url]\nsecret_key = a\0b\n": "is not a text file in UTF-8: byte 0x00 in line 4",
    b"[signed_url]\nsecret_key = a$s3cr3t\n": "[signed_url] secret_key: the value contains '$'",
    b"[signed_url]\nsecret_key = a${s3cr3t}\n": "[signed_url] secret_key: the value contains '$'",
    b"[drivers:message_store:redis]\nuri = redis://:x$s3cr3t@h\n": "[drivers:message_store:redis] uri: the value",
    b"log_file = /var/log/$s3cr3t\n": "[DEFAULT] log_file: the value contains '$'",
    b"[oslo_policy]\npolicy_file = $s3cr3t\n": "[oslo_policy] policy_file: the value contains '$'",
    b"[transport]\nmax_message_ttl = soon\n": "[transport] max_message_ttl: ",
    b"port\n": "The configuration cannot be read: ",
}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the signal handlers of this process, because commands install their own."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", "")
    return tmp_path / "state"


def run_with(command: str, text: bytes, folder: Path) -> int:
    path = folder / "zaqar.conf"
    path.write_bytes(b"[DEFAULT]\nstate_dir = %s\n%s" % (str(folder / "state").encode(), text))
    main, arguments = COMMANDS[command]
    config = ["--config-file", str(path)]
    return main([*config, *arguments] if command == "zaqar-sql-db-manage" else [*arguments, *config])


@pytest.mark.parametrize("text", MISTAKES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_in_the_configuration_is_one_sentence(
    command: str, text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(command, text, tmp_path) in (1, 2)
    shown = capsys.readouterr()
    if command == "zaqar-status":
        said = " ".join(line.strip("| ") for line in shown.out.splitlines() if line.startswith("| ")).split()
        assert not shown.err
        assert " ".join(MISTAKES[text].split()) in " ".join(said).replace(f"{tmp_path}/ ", f"{tmp_path}/")
    else:
        (said_line,) = shown.err.splitlines()
        assert said_line.startswith(f"{command}: ")
        assert MISTAKES[text] in said_line
    assert SECRET not in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


def test_a_store_that_is_away_is_named_by_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise StoreUnavailable from ConnectionRefusedError("connection\n  refused")

    assert failures.run("zaqar-gc", command) == 1
    assert capsys.readouterr().err == "zaqar-gc: A store does not answer: connection refused\n"


@pytest.mark.parametrize("exit_status", [0, 2])
def test_the_status_of_a_command_that_ends_by_itself(exit_status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.run("zaqar-gc", lambda: exit_status) == exit_status
    assert capsys.readouterr().err == ""


def test_an_exception_that_ends_the_process_is_no_failure() -> None:
    def command() -> int:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        failures.run("zaqar-gc", command)
