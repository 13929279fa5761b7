# SPDX-License-Identifier: Apache-2.0
"""The examples of the guide and the strict sample decide as described."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from zaqar import conf
from zaqar.context import Context
from zaqar.errors import Forbidden
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.policies import Authorizer, list_rules

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "policy.rst").read_text()
EXAMPLES = {
    name: textwrap.dedent(text)
    for name, text in re.findall(r"\.\. code-block:: yaml\n   :name: (\S+)\n\n((?:   .*\n|\n)+)", GUIDE)
}


def load(tmp_path: Path, policy: Path, caplog: pytest.LogCaptureFixture) -> Authorizer:
    (tmp_path / "zaqar.conf").write_text(f"[oslo_policy]\npolicy_file = {policy}\n")
    authorizer = Authorizer(conf.load(["--config-file", str(tmp_path / "zaqar.conf")]))
    assert caplog.messages == []
    return authorizer


def admits(
    authorizer: Authorizer, rule: str, *roles: str, queue_name: QueueName | None = None, who: str = "p/u", **names: str
) -> bool:
    project, _, user = who.partition("/")
    try:
        authorizer.check(Context(project, "c", frozenset(roles), user), rule, queue_name, **names)
    except Forbidden:
        return False
    return True


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Authorizer:
    path = tmp_path / "policy.yaml"
    path.write_text(EXAMPLES[request.param])
    return load(tmp_path, path, caplog)


@pytest.mark.parametrize("example", ["policy-roles"], indirect=True)
def test_roles(example: Authorizer) -> None:
    assert admits(example, "messages:get_all", "reader")
    assert not admits(example, "messages:get_all", "member")
    assert admits(example, "messages:create", "member")
    assert not admits(example, "messages:create", "reader")
    assert not admits(example, "queues:purge", "admin", "member")
    assert admits(example, "flavors:get_all")
    assert admits(example, "queues:create")


@pytest.mark.parametrize("example", ["policy-names"], indirect=True)
def test_names(example: Authorizer) -> None:
    audit, other, topic = QueueName("p", QUEUE, "audit"), QueueName("p", QUEUE, "other"), QueueName("p", TOPIC, "audit")
    for rule in ("messages:get_all", "messages:get", "messages:delete_all", "claims:create"):
        assert admits(example, rule, queue_name=other)
        assert not admits(example, rule, "admin", queue_name=audit)
        assert admits(example, rule, "auditor", queue_name=audit)
    assert admits(example, "messages:get", queue_name=topic)
    assert admits(example, "messages:create", queue_name=audit)
    assert not admits(example, "topics:create", "admin", queue_name=topic, who="4d5c0a2e/u")
    assert admits(example, "topics:create", queue_name=topic)
    assert admits(example, "queues:stats", queue_name=other, who="0a17c3f9/u")
    assert admits(example, "queues:stats", queue_name=other, who="p/backup")
    assert not admits(example, "queues:stats", "admin", queue_name=other)


@pytest.mark.parametrize("example", ["policy-schemes"], indirect=True)
def test_schemes(example: Authorizer) -> None:
    queue = QueueName("p", QUEUE, "q")
    for rule in ("subscription:create", "subscription:update"):
        assert admits(example, rule, queue_name=queue, scheme="https")
        assert not admits(example, rule, queue_name=queue, scheme="http")
        assert not admits(example, rule, queue_name=queue, scheme="mailto")
        assert admits(example, rule, "mailer", queue_name=queue, scheme="mailto")
        assert not admits(example, rule, "mailer", queue_name=queue)
    assert not admits(example, "subscription:confirm_unsigned", "admin", queue_name=queue, scheme="https")
    assert admits(example, "subscription:confirm", queue_name=queue, scheme="https")


# -- the strict sample -----------------------------------------------------------------------------------------------

READER = {
    "ping:get",
    "limits:get",
    *(f"{kind}:{action}" for kind in ("queues", "topics") for action in ("get_all", "get", "stats")),
    "messages:get_all",
    "messages:get",
    "claims:get",
    "subscription:get_all",
    "subscription:get",
    "subscription:deliveries",
    "flavors:get_all",
    "flavors:get",
}
MEMBER = READER | {
    *(f"{kind}:{action}" for kind in ("queues", "topics") for action in ("create", "update")),
    *(f"messages:{action}" for action in ("create", "delete", "delete_all")),
    *(f"claims:{action}" for action in ("create", "update", "delete")),
    *(f"subscription:{action}" for action in ("create", "update", "delete", "confirm", "confirm_unsigned")),
    "subscription:rotate_secret",
    "subscription:resend",
}
MANAGER = MEMBER | {f"{kind}:{action}" for kind in ("queues", "topics") for action in ("delete", "purge", "share")}
ADMIN = MANAGER | {
    *(f"pools:{action}" for action in ("get_all", "get", "create", "update", "delete")),
    *(f"flavors:{action}" for action in ("create", "update", "delete")),
    "health:get",
    "context_is_admin",
}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ((), set()),
        (("other",), set()),
        (("reader",), READER),
        (("member", "reader"), MEMBER),
        (("manager", "member", "reader"), MANAGER),
        (("admin", "manager", "member", "reader"), ADMIN),
    ],
    ids=["nobody", "other", "reader", "member", "manager", "admin"],
)
def test_the_strict_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, roles: tuple[str, ...], expected: set[str]
) -> None:
    authorizer = load(tmp_path, ROOT / "etc" / "policy-strict.yaml.sample", caplog)
    rules = {rule.name for rule in list_rules()} - {"admin_or_owner"}
    assert {rule for rule in rules if admits(authorizer, rule, *roles)} == expected
    assert expected <= rules


def test_every_example_of_the_guide_has_a_test() -> None:
    source = Path(__file__).read_text()
    found = re.findall(r"code-block:: yaml\n(?:   :name: (\S+)\n)?", GUIDE)
    assert found == [name for name in found if name and f'["{name}"]' in source]
    assert len(found) == 3
