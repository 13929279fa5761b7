# SPDX-License-Identifier: Apache-2.0
"""Policy files: how they are found and read, which ones are refused, and the snapshot that workers read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from oslo_config import cfg

from zaqar import conf
from zaqar.context import Context
from zaqar.errors import Forbidden, StartupError
from zaqar.policies import Authorizer, files
from zaqar.policies.files import PolicyFiles

READER = Context("p", "c", frozenset({"reader"}))


@pytest.fixture
def loaded(tmp_path: Path) -> cfg.ConfigOpts:
    (tmp_path / "zaqar.conf").write_text("")
    return conf.load(["--config-file", str(tmp_path / "zaqar.conf")])


def test_later_files_override_earlier_ones(tmp_path: Path, loaded: cfg.ConfigOpts) -> None:
    (tmp_path / "policy.d" / "folder").mkdir(parents=True)
    (tmp_path / "policy.yaml").write_text('"queues:get": "role:a"\n"queues:create": "role:a"\n"mine": [["role:a"]]\n')
    (tmp_path / "policy.d" / "2.yaml").write_text('"queues:get": "role:c"\n')
    (tmp_path / "policy.d" / "1.yaml").write_text('"queues:get": "role:b"\n"queues:purge": "role:b"\n')
    (tmp_path / "policy.d" / ".hidden.yaml").write_text('"queues:get": "role:d"\n')
    (tmp_path / "policy.d" / "empty.yaml").write_text("\n")
    found = files.read(loaded)
    assert found.rules == {
        "queues:get": "role:c",
        "queues:create": "role:a",
        "queues:purge": "role:b",
        "mine": [["role:a"]],
    }
    assert {Path(path).name: has_content for path, has_content in found.sources.items()} == {
        "policy.yaml": True,
        "1.yaml": True,
        "2.yaml": True,
        "empty.yaml": False,
    }


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n"])
def test_a_file_may_have_no_rules(tmp_path: Path, loaded: cfg.ConfigOpts, text: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    assert files.read(loaded).rules == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        # An operator who writes these means "no caller"; oslo.policy would admit every caller.
        ('"queues:get": !', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get": no', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get":', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get": 0', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get": {}', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get": [[1]]', "the rule 'queues:get' is not a text; put it in quotes."),
        ('"queues:get": "role:a"\n"queues:get": ""', "has the rule 'queues:get' more than once."),
        ('1: "role:a"', "has a rule whose name is not a text: 1."),
        ("- 1", "is not a mapping of names to rules."),
        ("text", "is not a mapping of names to rules."),
        ('"a": "b:c"\n---\n"a": "b:c"', "expected a single document"),
        ('"queues:get": "role:', "found unexpected end of stream"),
        ('"queues:get": &a "x:y"\n*b : "x:y"', "undefined alias"),
        ('"queues:get": "\0"', "special characters are not allowed"),
    ],
)
@pytest.mark.parametrize("name", ["policy.yaml", "policy.d/one.yaml"])
def test_a_file_that_cannot_be_used_stops_the_start(
    tmp_path: Path, loaded: cfg.ConfigOpts, name: str, text: str, complaint: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(StartupError) as raised:
        files.read(loaded)
    said = str(raised.value)
    assert said.startswith("[oslo_policy] policy_file: ")
    assert complaint in said
    assert str(tmp_path / name) in said
    assert "\n" not in said


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path, loaded: cfg.ConfigOpts) -> None:
    (tmp_path / "policy.yaml").mkdir()
    with pytest.raises(StartupError, match=r"policy\.yaml cannot be read: Is a directory\.$"):
        files.read(loaded)


def test_a_policy_dir_that_is_no_folder_stops_the_start(tmp_path: Path, loaded: cfg.ConfigOpts) -> None:
    (tmp_path / "policy.d").write_text("")
    with pytest.raises(StartupError, match=r"policy\.d, which policy_dirs names, cannot be read: Not a directory\.$"):
        files.read(loaded)


@pytest.mark.parametrize(
    ("used", "found", "loss"),
    [
        ({}, {}, None),
        ({}, {"a": True}, None),
        ({"a": True}, {"a": True, "b": False}, None),
        ({"a": False}, {"a": False}, None),
        # The file exists, but the configuration names another one.
        ({"there": True}, {"a": True}, None),
        ({"a": True}, {}, "a is gone."),
        ({"a": True, "b": False}, {"a": True}, "b is gone."),
        ({"a": True}, {"a": False}, "a is empty; a file without rules has to hold '{}'."),
    ],
)
def test_a_used_file_that_is_gone_or_empty_is_reported(
    tmp_path: Path, used: dict[str, bool], found: dict[str, bool], loss: str | None
) -> None:
    def at(sources: dict[str, bool]) -> PolicyFiles:
        return PolicyFiles({}, {f"{tmp_path}/{name}": has_content for name, has_content in sources.items()})

    (tmp_path / "there").touch()
    expected = loss and f"[oslo_policy] policy_file: {tmp_path}/{loss}"
    assert files.find_loss(at(used), at(found)) == expected


def test_a_snapshot_is_read_instead_of_the_files(
    tmp_path: Path, loaded: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "policy.yaml").write_text('"queues:create": "role:member"\n"odd": "role:x"\n')
    snapshot = tmp_path / "policy.json"
    found = files.read(loaded)
    snapshot.write_text("an older one")
    files.write_snapshot(snapshot, found)
    assert files.read_snapshot(snapshot) == found
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.yaml", "zaqar.conf"]
    (tmp_path / "policy.yaml").unlink()
    monkeypatch.setenv("ZAQAR_POLICY_SNAPSHOT", str(snapshot))
    with pytest.raises(Forbidden):
        Authorizer(loaded).check(READER, "queues:create")
    assert caplog.messages == []  # the warnings were logged when the files were read


@pytest.mark.parametrize("content", [None, "", "[]", '{"rules": {}}'])
def test_a_worker_without_its_snapshot_does_not_start(
    tmp_path: Path, loaded: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    snapshot = tmp_path / "policy.json"
    monkeypatch.setenv("ZAQAR_POLICY_SNAPSHOT", str(snapshot))
    if content is not None:
        snapshot.write_text(content)
    with pytest.raises(StartupError, match=r"^The policy in use cannot be read from .*policy\.json: "):
        Authorizer(loaded)


def test_a_snapshot_that_cannot_be_written_raises_startup_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"The policy in use cannot be written to .*: No such file or directory\.$"):
        files.write_snapshot(tmp_path / "nowhere" / "policy.json", PolicyFiles({}, {}))
