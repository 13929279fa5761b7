# SPDX-License-Identifier: Apache-2.0
"""The checks that ``zaqar-server`` runs before a start and before a reload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zaqar.cmd.server import preflight
from zaqar.errors import StartupError


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path))
    return tmp_path


def configure(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    path = folder / "zaqar.conf"
    path.write_text(text)
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(path))


def reload(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """Run the check that the supervisor runs at SIGHUP."""
    monkeypatch.setenv("ZAQAR_POLICY_SNAPSHOT", str(folder / "policy.json"))
    return preflight.main()


def test_the_default_store_survives_a_power_cut(state_dir: Path) -> None:
    assert preflight.survey_stores() == {"survives": "process crash and power cut"}
    assert (state_dir / "zaqar.db").exists()


def test_with_relaxed_synchronous_the_store_survives_a_process_crash_only(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, state_dir, "[drivers:message_store:sqlalchemy]\nsynchronous = NORMAL\n")
    assert preflight.survey_stores() == {"survives": "process crash"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[transport]\nmax_message_ttl = x\n", r"\[transport\] max_message_ttl"),
        ("[transport]\nmax_message_ttl = 60\n", r"\[transport\] default_message_ttl"),
        ("[drivers]\nmessage_store = nosuch\n", r"\[drivers\] message_store: there is no driver 'nosuch'"),
        ("[drivers:message_store:sqlalchemy]\nuri = sqlite:////nosuch/folder/x.db\n", "/nosuch/folder"),
    ],
)
def test_a_bad_configuration_stops_the_start(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    configure(monkeypatch, state_dir, text)
    with pytest.raises(StartupError, match=complaint):
        preflight.survey_stores()


def test_a_trial_process_that_dies_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_survey", lambda snapshot: os._exit(3))
    with pytest.raises(StartupError, match="has ended with status 3, without an answer"):
        preflight.survey_stores()


@pytest.mark.parametrize(
    ("text", "policy", "complaint"),
    [
        ("", '"queues:get": "', "[oslo_policy] policy_file: while scanning"),
        ("", None, "policy.yaml is gone."),
        ("", "", "policy.yaml is empty; a file without rules has to hold '{}'."),
        ("[transport]\nmax_message_ttl = x\n", "{}", "[transport] max_message_ttl"),
        ("[notification]\nrequire_confirmation = True\n", "{}", "[signed_url] secret_key"),
        ("[drivers]\nmessage_store = nosuch\n", "{}", "[drivers] message_store: there is no driver 'nosuch'"),
        ("[transport]\nmax_message_ttl = 60\n", "{}", "[transport] default_message_ttl"),
    ],
)
def test_a_bad_configuration_or_policy_stops_a_reload(
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    policy: str | None,
    complaint: str,
) -> None:
    configure(monkeypatch, state_dir, "")
    used = state_dir / "policy.yaml"
    used.write_text('"queues:get": "role:member"\n')
    assert reload(monkeypatch, state_dir) == 0
    configure(monkeypatch, state_dir, text)
    used.unlink()
    if policy is not None:
        used.write_text(policy)
    before = (state_dir / "policy.json").read_bytes()
    assert reload(monkeypatch, state_dir) == 1
    assert (state_dir / "policy.json").read_bytes() == before
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
