# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import io
import os
import tracemalloc
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_policy import generator

from zaqar import conf
from zaqar.bounded_cache import BoundedCache
from zaqar.context import Context
from zaqar.errors import Forbidden, StartupError
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.policies import Authorizer, list_rules

ROOT = Path(__file__).parents[2]

ADMIN = [
    "context_is_admin",
    "flavors:create",
    "flavors:delete",
    "flavors:update",
    "health:get",
    "pools:get_all",
    "pools:create",
    "pools:get",
    "pools:delete",
    "pools:update",
]
ANYBODY = [
    "claims:create",
    "claims:get",
    "claims:delete",
    "claims:update",
    "flavors:get_all",
    "flavors:get",
    "limits:get",
    "ping:get",
    "messages:get_all",
    "messages:create",
    "messages:get",
    "messages:delete",
    "messages:delete_all",
    "queues:get_all",
    "queues:create",
    "queues:get",
    "queues:delete",
    "queues:update",
    "queues:stats",
    "queues:share",
    "queues:purge",
    "subscription:get_all",
    "subscription:create",
    "subscription:get",
    "subscription:delete",
    "subscription:update",
    "subscription:confirm",
    "subscription:confirm_unsigned",
    "subscription:rotate_secret",
    "subscription:deliveries",
    "subscription:resend",
    "topics:get_all",
    "topics:create",
    "topics:get",
    "topics:delete",
    "topics:update",
    "topics:stats",
    "topics:share",
    "topics:purge",
]

CALLER = Context("project", "client", frozenset({"reader"}), "user")

MakeAuthorizer = Callable[[str], Authorizer]


@pytest.fixture
def make_authorizer(tmp_path: Path) -> MakeAuthorizer:
    """Make an authorizer with the rules of a policy file; without a file if the text is empty."""

    def make(policy: str = "") -> Authorizer:
        (tmp_path / "zaqar.conf").write_text("")
        if policy:
            (tmp_path / "policy.yaml").write_text(policy)
        return Authorizer(conf.load(["--config-file", str(tmp_path / "zaqar.conf")]))

    return make


def allowed(authorizer: Authorizer, rule: str, caller: Context = CALLER) -> bool:
    try:
        authorizer.check(caller, rule)
    except Forbidden:
        return False
    return True


def test_the_rules_and_their_defaults() -> None:
    rules = {rule.name: rule.check_str for rule in list_rules()}
    owner = {"admin_or_owner": "is_admin:True or project_id:%(project_id)s"}
    assert rules == dict.fromkeys(ADMIN, "role:admin") | dict.fromkeys(ANYBODY, "") | owner


def test_rules_that_admit_every_caller(make_authorizer: MakeAuthorizer) -> None:
    authorizer = make_authorizer("")
    assert [rule for rule in ANYBODY if not allowed(authorizer, rule, Context("p", "c"))] == []


@pytest.mark.parametrize("rule", ADMIN)
def test_rules_that_admit_only_an_admin(make_authorizer: MakeAuthorizer, rule: str) -> None:
    authorizer = make_authorizer("")
    assert not allowed(authorizer, rule)
    assert allowed(authorizer, rule, Context("p", "c", frozenset({"admin", "member"})))


def test_the_error_names_the_rule(make_authorizer: MakeAuthorizer) -> None:
    with pytest.raises(Forbidden, match="health:get"):
        make_authorizer("").check(CALLER, "health:get")


@pytest.mark.parametrize(
    ("rule", "admitted", "refused"),
    [
        ("role:member", Context("p", "c", frozenset({"member"})), Context("p", "c", frozenset({"reader"}))),
        ("project_id:theirs", Context("theirs", "c"), Context("ours", "c")),
        ("user_id:root", Context("p", "c", user_id="root"), Context("p", "c", user_id="ann")),
        ("'theirs':%(project_id)s", Context("theirs", "c"), Context("ours", "c")),
        ("rule:context_is_admin", Context("p", "c", frozenset({"admin"})), Context("p", "c")),
        ("is_admin:True", Context("p", "c", frozenset({"admin"})), Context("p", "c")),
    ],
)
def test_the_policy_file_overrides_the_defaults(
    make_authorizer: MakeAuthorizer, rule: str, admitted: Context, refused: Context
) -> None:
    authorizer = make_authorizer(f'"queues:create": "{rule}"\n')
    for _ in range(2):  # the second time from memory
        assert allowed(authorizer, "queues:create", admitted)
        assert not allowed(authorizer, "queues:create", refused)
        assert allowed(authorizer, "queues:get", refused)


def test_a_rule_may_admit_the_owner(make_authorizer: MakeAuthorizer) -> None:
    assert allowed(make_authorizer('"queues:delete": "rule:admin_or_owner"\n'), "queues:delete")


def test_an_operator_may_define_the_admin(make_authorizer: MakeAuthorizer) -> None:
    authorizer = make_authorizer('"context_is_admin": "role:boss"\n"health:get": "is_admin:True"\n')
    assert allowed(authorizer, "health:get", Context("p", "c", frozenset({"boss"})))
    assert not allowed(authorizer, "health:get", Context("p", "c", frozenset({"admin"})))


def test_decisions_are_right_for_more_callers_than_the_cache_holds(
    make_authorizer: MakeAuthorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zaqar.policies.loaded._DECISIONS_BYTES", 3000)
    authorizer = make_authorizer('"queues:create": "project_id:p7"\n')
    for _ in range(2):
        admitted = [n for n in range(10) if allowed(authorizer, "queues:create", Context(f"p{n}", "c"))]
        assert admitted == [7]


@pytest.mark.parametrize(
    ("caller", "callers"),
    [
        (lambda n: Context("p", "c", frozenset({f"{n}-{role}" for role in range(800)})), 16),
        (lambda n: Context("p", "c", frozenset({f"{n}" * 2000})), 160),
        (lambda n: Context("p", "c", user_id=f"{n}" * 4000), 160),
        (lambda n: Context(f"{n}" * 64, "c"), 750),
    ],
    ids=["many roles", "a long role", "a long user id", "long project ids"],
)
def test_cached_decisions_take_no_more_memory_than_the_bound(
    make_authorizer: MakeAuthorizer, monkeypatch: pytest.MonkeyPatch, caller: Callable[[int], Context], callers: int
) -> None:
    bound = 200_000
    monkeypatch.setattr("zaqar.policies.loaded._DECISIONS_BYTES", bound)
    authorizer = make_authorizer('"queues:create": "not (role:x or user_id:x or project_id:x)"\n')
    assert allowed(authorizer, "queues:create", caller(0))
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(1, callers):
            assert allowed(authorizer, "queues:create", caller(n))
        remembered = len(authorizer._policy._decisions)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        authorizer._policy._decisions = BoundedCache(0)
        gc.collect()
        used -= tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0 < remembered < callers
    assert bound / 10 < used < 1.1 * bound


@pytest.mark.parametrize("policy", ['"queues:create": "role:', "- 1\n- 2\n"])
def test_an_invalid_policy_file_stops_the_start(make_authorizer: MakeAuthorizer, policy: str) -> None:
    with pytest.raises(StartupError, match=r"^\[oslo_policy\] policy_file: "):
        make_authorizer(policy)


def test_the_sample_file_is_fresh() -> None:
    fresh = io.StringIO()
    with redirect_stdout(fresh):
        generator.generate_sample(["--namespace", "zaqar"], cfg.ConfigOpts())
    assert (ROOT / "etc" / "policy.yaml.sample").read_text() == fresh.getvalue(), "run tox -e genpolicy"


# -- policy files: read once -----------------------------------------------------------------------------------------

STRICT = '"queues:create": "role:member"\n'
MEMBER, READER = Context("p", "c", frozenset({"member"})), Context("p", "c", frozenset({"reader"}))


@pytest.mark.parametrize("name", ["policy.yaml", "policy.d/strict.yaml"])
@pytest.mark.parametrize("content", [None, b"", b'"queues:cre', b"\xff\xfe", b"- 1\n", b'"queues:create": ""\n'])
def test_a_decision_reads_no_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A policy file that is deleted, half written or changed has no effect until the configuration is reloaded."""
    (tmp_path / "zaqar.conf").write_text("")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(STRICT)
    authorizer = Authorizer(conf.load(["--config-file", str(tmp_path / "zaqar.conf")]))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    os.utime(path.parent, (1, 2**31))
    assert not allowed(authorizer, "queues:create", READER)
    assert allowed(authorizer, "queues:create", MEMBER)
    assert allowed(authorizer, "queues:get", READER)


@pytest.mark.parametrize("content", [b'"queues:create": "role:', b"\xff\xfe\x00", b"- 1\n", b"a: b: c\n"])
@pytest.mark.parametrize("name", ["policy.yaml", "policy.d/strict.yaml"])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "zaqar.conf").write_text("")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StartupError, match=r"^\[oslo_policy\] policy_file: [^\n]+$"):
        Authorizer(conf.load(["--config-file", str(tmp_path / "zaqar.conf")]))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('"queues:create": "rule:nowhere"\n', "queues:create"),
        ('"a": "rule:b"\n"b": "rule:a"\n', "in a circle: 'a' -> 'b' -> 'a'"),
        ('"queues:create": "rolemember"\n', "'queues:create' cannot be parsed"),
        ('"queues:create": "role:member or ("\n', "'queues:create' cannot be parsed"),
    ],
)
def test_meaningless_rules_stop_the_start(make_authorizer: MakeAuthorizer, policy: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        make_authorizer(policy)


def test_a_policy_file_that_was_chosen_must_exist(tmp_path: Path) -> None:
    (tmp_path / "zaqar.conf").write_text("[oslo_policy]\npolicy_file = strict.yaml\n")
    loaded = conf.load(["--config-file", str(tmp_path / "zaqar.conf")])
    with pytest.raises(StartupError, match=r"there is no file strict\.yaml"):
        Authorizer(loaded)
    (tmp_path / "strict.yaml").write_text(STRICT)
    assert not allowed(Authorizer(loaded), "queues:create", READER)


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "rule", "queue_name", "attributes", "expected"),
    [
        ("'q1':%(queue_name)s", "messages:create", QueueName("p", QUEUE, "q1"), {}, True),
        ("'q1':%(queue_name)s", "messages:create", QueueName("p", QUEUE, "q2"), {}, False),
        ("'q1':%(queue_name)s", "messages:create", QueueName("p", TOPIC, "q1"), {}, False),
        ("'q1':%(topic_name)s", "messages:create", QueueName("p", TOPIC, "q1"), {}, True),
        ("'topic':%(kind)s", "messages:create", QueueName("p", TOPIC, "q1"), {}, True),
        ("'topic':%(kind)s", "messages:create", QueueName("p", QUEUE, "q1"), {}, False),
        ("'fast':%(pool_name)s", "pools:get", None, {"pool_name": "fast"}, True),
        ("'fast':%(pool_name)s", "pools:get", None, {"pool_name": "slow"}, False),
        ("'p':%(tenant_id)s and user_id:%(user_id)s", "pools:get", None, {}, True),
        ("system_scope:all", "pools:get", None, {}, False),
    ],
)
def test_the_target_of_a_rule(
    make_authorizer: MakeAuthorizer,
    policy: str,
    rule: str,
    queue_name: QueueName | None,
    attributes: dict[str, str],
    expected: bool,
) -> None:
    authorizer = make_authorizer(f'"{rule}": "{policy}"\n')
    for _ in range(2):  # the second time from memory
        caller = Context("p", "c", user_id="u")
        if expected:
            authorizer.check(caller, rule, queue_name, **attributes)
        else:
            with pytest.raises(Forbidden):
                authorizer.check(caller, rule, queue_name, **attributes)


def test_system_scope_is_known_to_rules(make_authorizer: MakeAuthorizer) -> None:
    authorizer = make_authorizer('"pools:get": "system_scope:all"\n')
    assert allowed(authorizer, "pools:get", Context("p", "c", system_scope="all"))
    assert not allowed(authorizer, "pools:get", Context("p", "c"))


def test_a_signed_request_asks_no_rule(make_authorizer: MakeAuthorizer) -> None:
    authorizer = make_authorizer('"messages:create": "!"\n')
    assert allowed(authorizer, "messages:create", Context("p", "c", signed=True))
    assert not allowed(authorizer, "messages:create", Context("p", "c"))
