# SPDX-License-Identifier: Apache-2.0
"""``zaqar-server --check``: its output and its status, stores that are away, and that it changes nothing."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import free_port
from zaqar import app
from zaqar import conf as configuration
from zaqar.cmd.configuration_checks import capacity, stores
from zaqar.cmd.server import main
from zaqar.model import Catalog, Pool
from zaqar.storage.registry import open_management_store

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the command with a configuration file. Returns its status and its lines."""
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(tmp_path / "zaqar.conf"))
    (tmp_path / "zaqar.conf").touch()
    monkeypatch.setattr(capacity, "most_files", lambda: 1_000_000)

    def run(text: str, *arguments: str) -> tuple[int, list[str]]:
        path = tmp_path / "zaqar.conf"
        path.write_text(text)
        path.chmod(0o600)
        status = main.main(["--check", *arguments])
        shown = capsys.readouterr()
        assert shown.err == ""
        return status, shown.out.splitlines()

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_configuration_is_nothing_to_complain_about(check: Check, tmp_path: Path) -> None:
    assert check("") == (0, ["There is nothing to complain about."])
    assert not (tmp_path / "state").exists()


def test_warnings_leave_the_status_0(check: Check) -> None:
    status, lines = check("[DEFAULT]\nunreliable = True\n[transprt]\nmax_wait = 3\n")
    assert status == 0
    assert lines[0].startswith("warning: [transprt] max_wait: there is no group [transprt], ")
    assert lines[1] == "warning: [DEFAULT] unreliable: the option has no effect in this release."
    assert lines[2:] == ["Errors: 0. Warnings: 2."]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[transport]\nmax_message_ttl = x\n", "error: [transport] max_message_ttl: "),
        ("[notification]\nrequire_confirmation = True\n", "error: [signed_url] secret_key: must be set if "),
        ("[drivers]\nmessage_store = nosuch\n", "error: [drivers] message_store: there is no driver 'nosuch'"),
        ("[DEFAULT]\nauth_strategy = none\n", "error: [DEFAULT] auth_strategy: must be 'keystone' or empty"),
    ],
)
def test_an_error_makes_the_status_1(check: Check, text: str, line: str) -> None:
    status, lines = check(text)
    assert status == 1
    assert [each for each in lines if each.startswith(line)]
    assert lines[-1].startswith("Errors: 1. ")


def test_addresses_of_the_command_line_count(check: Check) -> None:
    status, lines = check("", "--bind", "0.0.0.0:8888")
    assert (status, lines[-1]) == (0, "Errors: 0. Warnings: 1.")
    assert "([drivers:transport:wsgi] bind = 0.0.0.0)" in lines[0]
    text = "[drivers:transport:wsgi]\nbind = 0.0.0.0\n"
    assert check(text, "--bind", "127.0.0.1:8888") == (0, ["There is nothing to complain about."])


def test_nothing_is_opened_or_changed(check: Check, tmp_path: Path) -> None:
    """The database has the schema of an earlier release, and another program has the ports."""
    conf = configuration.load()
    app.build(conf).close()
    _set_revision(tmp_path / "state" / "zaqar.db", "0001")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = snapshot(tmp_path / "state")
        text = f"[drivers:transport:wsgi]\nport = {port}\n[drivers:transport:websocket]\nport = {port}\n"
        assert check(text) == (0, ["There is nothing to complain about."])
    after = snapshot(tmp_path / "state")
    assert after[str(tmp_path / "state" / "zaqar.db")] == before[str(tmp_path / "state" / "zaqar.db")]
    assert _revision(tmp_path / "state" / "zaqar.db") == "0001"


def _set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def _revision(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    finally:
        connection.close()
    return str(revision)


REDIS = """
[drivers]
message_store = redis
management_store = redis
[drivers:message_store:redis]
uri = redis://:hidden@127.0.0.1:{0}
[drivers:management_store:redis]
uri = redis://:hidden@127.0.0.1:{0}
"""


def test_stores_that_are_away_are_errors(check: Check) -> None:
    status, lines = check(REDIS.format(free_port()))
    assert status == 1
    for which in ("management_store", "message_store"):
        start = f"error: [drivers:{which}:redis] uri: the store does not answer: "
        assert [line for line in lines if line.startswith(start)]
    assert "hidden" not in "".join(lines)


def test_silent_stores_are_waited_for_with_a_bound(check: Check) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        status, lines = check(REDIS.format(silent.getsockname()[1]))
        assert time.monotonic() - began < 4 * stores.ANSWER_SECONDS
    assert (status, lines[-1]) == (1, "Errors: 2. Warnings: 0.")


def test_pools_are_asked_for(check: Check, tmp_path: Path) -> None:
    pooling = "[DEFAULT]\npooling = True\n"
    app.build(configuration.load()).close()
    status, lines = check(pooling)
    assert (status, len(lines)) == (0, 2)
    assert lines[0].startswith("warning: [DEFAULT] pooling: there are no pools, ")
    assert check(f"{pooling}[pooling:catalog]\nenable_virtual_pool = True\n")[1][-1] == (
        "There is nothing to complain about."
    )
    management = open_management_store(configuration.load())
    away = Pool("away", f"redis://127.0.0.1:{free_port()}", weight=1)
    fresh = Pool("fresh", f"sqlite:///{tmp_path}/fresh.db", weight=1)
    assert management.catalog.replace(catalog=Catalog(version=1, pools=(away, fresh)))
    management.close()
    status, lines = check(pooling)
    expected = "warning: [DEFAULT] pooling: Pools that do not answer, and whose queues are not served: away."
    assert (status, lines) == (0, [expected, "Errors: 0. Warnings: 1."])
    # The service makes the file of a pool at its first use, the check does not.
    assert not (tmp_path / "fresh.db").exists()


def test_the_output_in_the_documentation_is_that_of_the_command(check: Check, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.rst").read_text()
    shown = text.partition("$ zaqar-server --check --config-file /etc/zaqar/zaqar.conf\n")[2].partition("\n\n")[0]
    _, lines = check(
        "[DEFAULT]\nauth_strategey = keystone\n[profiler]\nprofiler_enabled = True\nhmac_keys = own\n"
        "[drivers:transport:wsgi]\nbind = 0.0.0.0\n[notification]\nrequire_confirmation = True\n"
        "webhook_allowed_networks = 169.254.0.0/16\npublic_url = https://mq.example\nsmtp_command = true\n"
    )
    path = str(tmp_path / "zaqar.conf")
    assert [line.replace(path, "/etc/zaqar/zaqar.conf") for line in lines] == [
        line.strip() for line in shown.splitlines()
    ]
