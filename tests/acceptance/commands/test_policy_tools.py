# SPDX-License-Identifier: Apache-2.0
"""The commands of oslo.policy, run as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from zaqar.policies import list_rules

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
DEFAULTS = {rule.name: rule.check_str for rule in list_rules()}


def run(
    folder: Path, tool: str, *arguments: str, status: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / f"oslopolicy-{tool}"), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An operator's working directory, beside a service that is configured in ``etc``."""
    (tmp_path / "etc" / "policy.d").mkdir(parents=True)
    (tmp_path / "etc" / "zaqar.conf").write_text("[oslo_policy]\npolicy_file = mine.yaml\n")
    (tmp_path / "etc" / "mine.yaml").write_text('"queues:get": ""\n"queues:create": "role:member"\n')
    return tmp_path


OURS = ("--namespace", "zaqar")
CONFIGURED = (*OURS, "--config-file", "etc/zaqar.conf")


def test_the_sample_generator_writes_the_sample_in_etc(folder: Path) -> None:
    run(folder, "sample-generator", *OURS, "--output-file", "policy.yaml.sample")
    assert (folder / "policy.yaml.sample").read_text() == (ROOT / "etc" / "policy.yaml.sample").read_text()


def test_the_policy_generator_writes_defaults_and_overrides(folder: Path) -> None:
    (folder / "etc" / "policy.d" / "more.yaml").write_text('"queues:create": "role:boss"\n"topics:get": "!"\n')
    run(folder, "policy-generator", *CONFIGURED, "--output-file", "all.yaml")
    assert yaml.safe_load((folder / "all.yaml").read_text()) == {
        **DEFAULTS,
        "queues:create": "role:boss",
        "topics:get": "!",
    }


def test_the_configuration_of_the_service_is_found(folder: Path) -> None:
    done = run(folder, "policy-generator", *OURS, ZAQAR_CONFIG_FILE=str(folder / "etc" / "zaqar.conf"))
    assert yaml.safe_load(done.stdout) == {**DEFAULTS, "queues:create": "role:member"}


def test_list_redundant_prints_the_rules_that_equal_their_defaults(folder: Path) -> None:
    assert run(folder, "list-redundant", *CONFIGURED).stdout == '"queues:get": ""\n'


def test_the_validator_reports_unknown_and_invalid_rules(folder: Path) -> None:
    assert run(folder, "validator", *CONFIGURED).stdout == ""
    mine = folder / "etc" / "mine.yaml"
    mine.write_text('"queue:get": "role:x"\n"queues:get": "role:x or"\n"topics:get": "rule:nowhere"\n')
    said = run(folder, "validator", *CONFIGURED, status=1).stdout
    assert "Unknown rule found in policy file: queue:get\n" in said
    assert "Failed to parse rule: role:x or\n" in said
    assert "Invalid rules found\n" in said
    mine.unlink()
    said = run(folder, "validator", *CONFIGURED, status=1).stdout
    assert said == 'Configured policy file "mine.yaml" not found\n'


def test_the_checker_shows_the_decision_for_a_token(folder: Path) -> None:
    (folder / "etc" / "mine.yaml").write_text(
        '"messages:create": "role:member and \'q1\':%(queue_name)s"\n"queues:delete": "rule:admin_or_owner"\n'
    )
    run(folder, "policy-generator", *CONFIGURED, "--output-file", "all.yaml")
    token = {
        "roles": [{"id": "1", "name": "member"}, {"id": "2", "name": "reader"}],
        "project": {"id": "p", "name": "demo", "domain": {"id": "default"}},
        "user": {"id": "u", "name": "ann", "domain": {"id": "default"}},
    }
    (folder / "access.json").write_text(json.dumps({"token": token}))
    check = ("--policy", "all.yaml", "--access", "access.json")
    every = run(folder, "checker", *check).stdout.splitlines()
    assert {line.partition(": ")[2] for line in every} == {name for name in DEFAULTS if ":" in name}
    assert {line for line in every if line.startswith("failed")} == {
        f"failed: {name}" for name, rule in DEFAULTS.items() if rule == "role:admin" and ":" in name
    } | {"failed: messages:create"}
    for queue, word in (("q1", "passed"), ("q2", "failed")):
        (folder / "target.json").write_text(json.dumps({"project_id": "p", "queue_name": queue}))
        one = run(folder, "checker", *check, "--target", "target.json", "--rule", "messages:create").stdout
        assert one == f"{word}: messages:create\n"


def test_an_old_policy_file_is_converted_to_yaml_and_upgraded(folder: Path) -> None:
    (folder / "policy.json").write_text('{"queues:create": "role:member", "topics:get": ""}')
    paths = ("--policy-file", "policy.json", "--output-file", "policy.yaml")
    run(folder, "convert-json-to-yaml", *OURS, *paths)
    assert yaml.safe_load((folder / "policy.yaml").read_text()) == {"queues:create": "role:member"}
    done = run(folder, "policy-upgrade", *OURS, "--policy", "policy.yaml")
    assert yaml.safe_load(done.stdout) == {"queues:create": "role:member"}
