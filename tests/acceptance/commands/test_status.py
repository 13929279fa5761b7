# SPDX-License-Identifier: Apache-2.0
"""``zaqar-status upgrade check``: the checks, their results and the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import free_port
from zaqar import app
from zaqar import conf as configuration
from zaqar.cmd import status
from zaqar.cmd.configuration_checks import capacity
from zaqar.cmd.status import Finding, Result
from zaqar.errors import StoreUnavailable


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path))
    # The machine that runs the test may allow fewer open files than the defaults need.
    monkeypatch.setattr(capacity, "most_files", lambda: 1_000_000)
    return tmp_path


def run(folder: Path, text: str = "") -> tuple[int, dict[str, Result]]:
    """Exit status, and the result of each check."""
    path = folder / "zaqar.conf"
    path.write_text(text)
    arguments = ["--config-file", str(path)]
    found = {finding.check: finding.result for finding in status.check_all(arguments)}
    return status.main(["upgrade", "check", *arguments]), found


def test_all_checks_succeed_on_a_good_configuration(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(state_dir)
    assert code == 0
    titles = ["Configuration", "Policy", "Message encryption", "Stores", "Access", "Secrets", "Notifications"]
    assert found == dict.fromkeys([*titles, "Logs and metrics", "Capacity", "Service"], Result.SUCCESS)
    lines = capsys.readouterr().out.splitlines()
    assert "| Check: Stores" in "\n".join(lines)
    assert {len(line) for line in lines} == {status._WIDTH}


@pytest.mark.parametrize(
    ("text", "check", "result"),
    [
        ("[transport]\nmax_message_ttl = x\n", "Configuration", Result.FAILURE),
        ("[transport]\nmax_message_ttl = 60\n", "Configuration", Result.FAILURE),
        ("[drivers]\nmanagement_store = nosuch\n", "Stores", Result.FAILURE),
        ("[drivers:message_store:sqlalchemy]\nuri = sqlite:////nosuch/x.db\n", "Stores", Result.FAILURE),
        ("[drivers:transport:wsgi]\nbind = 0.0.0.0\n", "Access", Result.WARNING),
        ("[drivers:transport:websocket]\nbind = 0.0.0.0\n", "Access", Result.WARNING),
    ],
)
def test_each_fault_is_found_by_its_check(state_dir: Path, text: str, check: str, result: Result) -> None:
    code, found = run(state_dir, text)
    assert code == result
    assert {name for name, its in found.items() if its is not Result.SUCCESS} == {check}


KEYSTONE = """
[DEFAULT]
auth_strategy = keystone
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:{port}/v3
username = zaqar
password = p
user_domain_name = Default
project_domain_name = Default
project_name = service
"""


def test_a_keystone_that_does_not_answer_is_a_warning(state_dir: Path) -> None:
    code, found = run(state_dir, KEYSTONE.format(port=free_port()))
    assert (code, found["Access"]) == (1, Result.WARNING)


def test_invalid_options_of_keystone_fail_the_check_of_access(state_dir: Path) -> None:
    code, found = run(state_dir, "[DEFAULT]\nauth_strategy = keystone\n[keystone_authtoken]\nauth_type = nosuch\n")
    assert (code, found["Access"]) == (2, Result.FAILURE)


def test_a_broken_policy_file_fails_the_check_of_the_policy(state_dir: Path) -> None:
    (state_dir / "policy.yaml").write_text("- 1\n")
    code, found = run(state_dir)
    assert (code, found["Policy"]) == (2, Result.FAILURE)


def test_a_schema_that_has_to_be_upgraded_fails_the_check_of_stores(state_dir: Path) -> None:
    code, found = run(state_dir, f"[drivers:message_store:sqlalchemy]\nuri = sqlite:///{state_dir}/own.db\n")
    assert (code, found["Stores"]) == (2, Result.FAILURE)


def test_a_store_that_does_not_answer_fails_the_check_of_stores(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ping(self: object) -> None:
        raise StoreUnavailable

    app.build(configuration.load()).close()
    assert run(state_dir)[1]["Stores"] is Result.SUCCESS
    monkeypatch.setattr("zaqar.storage.sqlalchemy.management.SqlManagementStore.ping", ping)
    assert run(state_dir)[1]["Stores"] is Result.FAILURE


def test_long_details_are_wrapped() -> None:
    table = status.render([Finding("One", Result.WARNING, "word " * 60)])
    assert {len(line) for line in table.splitlines()} == {status._WIDTH}
    assert table.count("word") == 60


def test_an_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        status.main(["upgrade"])
    assert "usage: zaqar-status" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "result", "said"),
    [
        ("", Result.SUCCESS, ""),
        ("message_encryption_key = hex:" + "12" * 32, Result.SUCCESS, ""),
        ("message_encryption_key = AES256", Result.WARNING, "no secret"),
        ("message_encryption_key = short", Result.WARNING, "may be guessed"),
        ("message_encryption_key = base64:AAAA", Result.FAILURE, "a key has 32 bytes"),
        ("message_encryption_algorithms = RSA", Result.FAILURE, "'RSA' is not available"),
    ],
)
def test_the_check_of_message_encryption_judges_the_keys(tmp_path: Path, line: str, result: Result, said: str) -> None:
    path = tmp_path / "zaqar.conf"
    path.write_text(f"[DEFAULT]\nstate_dir = {tmp_path}/state\n[transport]\n{line}\n")
    (finding,) = [each for each in status.check_all(["--config-file", str(path)]) if each.check == "Message encryption"]
    assert (finding.result, said in finding.details) == (result, True)
