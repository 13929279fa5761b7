# SPDX-License-Identifier: Apache-2.0
"""Loaded rules: which cannot be used, which give a warning, and the key of a cached decision."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import policy

from tests.unit.test_policies import MakeAuthorizer, allowed, make_authorizer
from zaqar import conf
from zaqar.context import Context
from zaqar.errors import Forbidden, PolicyUnavailable, StartupError
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.policies import Authorizer, list_rules
from zaqar.policies.targets import target_names

__all__ = ["make_authorizer"]

MEMBER, READER = Context("p", "c", frozenset({"member"})), Context("p", "c", frozenset({"reader"}))


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ('"queues:get": "rule:nowhere"', "the rule 'queues:get' refers to 'nowhere', which is not defined."),
        ('"queues:get": "not rule:nowhere"', "the rule 'queues:get' refers to 'nowhere', which is not defined."),
        ('"a": "role:x or rule:nowhere"', "the rule 'a' refers to 'nowhere', which is not defined."),
        ('"a": "not rule:a"', "in a circle: 'a' -> 'a'."),
        ('"a": "role:x and rule:b"\n"b": "not rule:c"\n"c": "rule:a"', "in a circle: 'a' -> 'b' -> 'c' -> 'a'."),
        ('"queues:get": "not rolemember"', "the rule 'queues:get' cannot be parsed."),
        ('"queues:get": "role:x or rolemember"', "the rule 'queues:get' cannot be parsed."),
        ('"queues:get": "role:x or"', "the rule 'queues:get' cannot be parsed."),
        ('"queues:get": [["role:x", "what"], ["!"]]', "the rule 'queues:get' cannot be parsed."),
        ('"queues:get": "project_id:%(project_id)d"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "project_id:%(project_id)c"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "project_id:100%"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "role:%(project_id)i"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "project_id.name:x"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "1x:y"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "http://policy/a%20b"', "the rule 'queues:get' cannot be evaluated at"),
        ('"queues:get": "' + "not " * 5000 + 'role:x"', "a rule is nested too deeply."),
        ('"queues:get": "' + "(role:x and " * 3000 + "role:x" + ")" * 3000 + '"', "a rule is nested too deeply."),
    ],
)
def test_rules_that_cannot_be_used_stop_the_start(make_authorizer: MakeAuthorizer, rules: str, complaint: str) -> None:
    with pytest.raises(StartupError) as raised:
        make_authorizer(rules + "\n")
    assert str(raised.value).startswith("[oslo_policy] policy_file: ")
    assert complaint in str(raised.value)


def test_two_references_to_one_rule_are_no_circle(make_authorizer: MakeAuthorizer) -> None:
    many = "".join(f'"r{n}": "rule:r{n + 1} or rule:r{n + 1}"\n' for n in range(60))
    authorizer = make_authorizer(f'{many}"r60": "role:member"\n"queues:create": "role:x or role:y or rule:r59"\n')
    assert allowed(authorizer, "queues:create", MEMBER)


@pytest.mark.parametrize(
    ("rules", "doubt"),
    [
        (
            '"queue:create": "role:x"',
            "there is no rule 'queue:create', so it decides nothing. Did you mean 'queues:create'?",
        ),
        ('"xyz": "role:x"', "there is no rule 'xyz', so it decides nothing."),
        ('"queues:get": "rolle:x"', "the rule 'queues:get' asks for rolle, which no caller has"),
        ('"queues:get": "token.project.id:x"', "the rule 'queues:get' asks for token, which no caller has"),
        ('"queues:get": "\'a\':%(queue)s"', "the rule 'queues:get' asks for %(queue)s, which its target has not"),
        ('"queues:get_all": "\'a\':%(queue_name)s"', "asks for %(queue_name)s, which its target has not"),
        ('"pools:get": "\'a\':%(flavor_name)s"', "asks for %(flavor_name)s, which its target has not"),
        ('"of_a": "\'a\':%(scheme)s"\n"messages:get": "rule:of_a"', "'messages:get' asks for %(scheme)s"),
    ],
)
def test_doubtful_rules_are_warned_of(
    make_authorizer: MakeAuthorizer, caplog: pytest.LogCaptureFixture, rules: str, doubt: str
) -> None:
    make_authorizer(rules + "\n")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [each for each in warnings if doubt in each] == warnings
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "rules",
    [
        "{}",
        '"default": "!"',
        '"mine": "role:x"\n"queues:get": "not rule:mine"',
        '"of_a": "\'a\':%(queue_name)s"\n"queues:get": "rule:of_a"',
        '"queues:get": "\'x\':y or None:%(user_id)s or system_scope:all or tenant_id:%(tenant_id)s"',
    ],
)
def test_good_rules_give_no_warning(
    make_authorizer: MakeAuthorizer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    make_authorizer(rules + "\n")
    assert caplog.messages == []


# -- remembered decisions --------------------------------------------------------------------------------------------

LEAVES = [
    "@",
    "!",
    "role:member",
    "role:%(kind)s",
    "roles:reader",
    "project_id:p1",
    "project_id:%(project_id)s",
    "tenant_id:%(queue_name)s",
    "user_id:u1",
    "user_id:%(user_id)s",
    "'u1':%(user_id)s",
    "'p2':%(tenant_id)s",
    "system_scope:all",
    "system:all",
    "is_admin:True",
    "'queue':%(kind)s",
    "'a':%(queue_name)s",
    "'a':%(topic_name)s",
    "'https':%(scheme)s",
    "'a':%(nothing)s",
    "nothing:x",
    "rule:shared",
    "rule:context_is_admin",
]
RULES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
    ),
    max_leaves=5,
)
# Rules that others refer to, without references.
ENDS = RULES.filter(lambda rule: "rule:" not in rule and "is_admin" not in rule)
CALLERS = st.builds(
    Context,
    st.sampled_from(["p1", "p2", "a"]),
    st.just("c"),
    st.frozensets(st.sampled_from(["member", "reader", "admin", "queue"]), max_size=2),
    st.sampled_from(["u1", "u2", "None", None]),
    system_scope=st.sampled_from([None, "all"]),
)
TARGETS = st.tuples(
    st.none() | st.builds(QueueName, st.just("p"), st.sampled_from([QUEUE, TOPIC]), st.sampled_from("ab")),
    st.sampled_from([{}, {"scheme": "https"}, {"scheme": "mailto"}]),
)


def decide(
    enforcer: policy.Enforcer, context: Context, queue_name: QueueName | None, attributes: dict[str, str]
) -> bool:
    """Return the decision of the library, with all attributes that a rule may read."""
    both = {"project_id": context.project, "tenant_id": context.project}
    if context.user_id is not None:
        both["user_id"] = context.user_id
    target = {**both, **attributes}
    if queue_name is not None:
        target |= {"kind": queue_name.kind, f"{queue_name.kind}_name": queue_name.name}
    caller: dict[str, Any] = {**both, "roles": list(context.roles), "is_admin": False}
    if context.system_scope is not None:
        caller["system_scope"] = context.system_scope
    caller["is_admin"] = enforcer.enforce("context_is_admin", target, dict(caller))
    return bool(enforcer.enforce("subscription:create", target, caller))


EVERY_CALLER = [
    Context(project, "c", roles, user, system_scope=scope)
    for project in ("p1", "p2")
    for roles in (frozenset[str](), frozenset({"member"}), frozenset({"reader", "queue"}))
    for user in (None, "u1", "None")
    for scope in (None, "all")
]
EVERY_TARGET = [
    (queue_name, attributes)
    for queue_name in (None, QueueName("p", QUEUE, "a"), QueueName("p", QUEUE, "p1"), QueueName("p", TOPIC, "a"))
    for attributes in ({}, {"scheme": "https"})
]


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if "rule:" not in leaf and "is_admin" not in leaf])
@pytest.mark.parametrize(
    ("rule", "shared", "admin"),
    [("{}", "!", "!"), ("not rule:shared", "{}", "!"), ("is_admin:True", "!", "not {}")],
    ids=["direct", "by reference", "of admins"],
)
def test_a_cached_decision_is_not_used_for_another_caller(
    make_authorizer: MakeAuthorizer, rule: str, shared: str, admin: str, leaf: str
) -> None:
    """Each check alone, for all pairs of callers and targets that differ in one attribute only."""
    rules = {"subscription:create": rule, "shared": shared, "context_is_admin": admin}
    compare(make_authorizer, {name: text.format(leaf) for name, text in rules.items()}, EVERY_CALLER, EVERY_TARGET)


@functools.cache
def default_conf() -> cfg.ConfigOpts:
    return conf.load(default_config_files=[])


def compare(
    make_authorizer: MakeAuthorizer,
    rules: dict[str, str],
    callers: Iterable[Context],
    targets: Iterable[tuple[QueueName | None, dict[str, str]]],
) -> None:
    authorizer = make_authorizer("".join(f'"{name}": "{text}"\n' for name, text in rules.items()))
    enforcer = policy.Enforcer(default_conf(), rules=policy.Rules.from_dict(rules), use_conf=False)
    for context, (queue_name, attributes) in itertools.product(callers, targets):
        expected = decide(enforcer, context, queue_name, attributes)
        try:
            authorizer.check(context, "subscription:create", queue_name, **attributes)
        except Forbidden:
            assert not expected, (context, queue_name, attributes)
        else:
            assert expected, (context, queue_name, attributes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=RULES,
    shared=ENDS,
    admin=ENDS,
    callers=st.lists(CALLERS, min_size=1, max_size=6),
    targets=st.lists(TARGETS, min_size=1, max_size=6),
)
def test_a_cached_decision_equals_a_new_decision(
    make_authorizer: MakeAuthorizer,
    rule: str,
    shared: str,
    admin: str,
    callers: list[Context],
    targets: list[tuple[QueueName | None, dict[str, str]]],
) -> None:
    rules = {"subscription:create": rule, "shared": shared, "context_is_admin": admin}
    compare(make_authorizer, rules, callers * 2, targets)


@pytest.mark.parametrize(
    ("rule", "remembered"),
    [
        ("", 0),
        ("@ or role:x", 1),
        ("role:member", 1),
        ("'q':%(kind)s", 1),
        ("project_id:%(project_id)s", 5),
        ("not 'q':%(queue_name)s", 20),
        ("not 'q':%(queue_name)s and not user_id:u", 20),
    ],
)
def test_a_decision_is_cached_by_the_inputs_of_its_rule(
    make_authorizer: MakeAuthorizer, rule: str, remembered: int
) -> None:
    authorizer = make_authorizer(f'"messages:create": "{rule}"\n')
    for n in range(20):
        caller = Context(f"p{n % 5}", f"client {n}", frozenset({"member"}), "user")
        allowed_or_not(authorizer, caller, QueueName(caller.project, QUEUE, f"q{n}"))
    assert len(authorizer._policy._decisions) == remembered


def allowed_or_not(authorizer: Authorizer, caller: Context, queue_name: QueueName) -> None:
    with contextlib.suppress(Forbidden):
        authorizer.check(caller, "messages:create", queue_name)


def test_a_decision_reads_no_file(make_authorizer: MakeAuthorizer, monkeypatch: pytest.MonkeyPatch) -> None:
    authorizer = make_authorizer('"queues:create": "role:member or is_admin:True"\n"queues:get": "not role:x"\n')

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a decision looks at a file")

    with monkeypatch.context() as patched:
        for name in ("stat", "lstat", "listdir", "scandir", "open", "walk"):
            patched.setattr(os, name, fail)
        patched.setattr("builtins.open", fail)
        found = [
            allowed(authorizer, rule, caller) for rule in ("queues:create", "queues:get") for caller in (MEMBER, READER)
        ]
    assert found == [True, False, True, True]


# -- checks that ask another service ---------------------------------------------------------------------------------


@pytest.fixture
def rule_server() -> Iterator[ThreadingHTTPServer]:
    """A server that answers with its attribute ``answer``, and records the requests."""

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(self.path)
            server.may_answer.wait(10)
            # The client may be gone.
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(server.answer)

        def log_message(self, *arguments: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    # The end of the test waits for the threads.
    server.daemon_threads = False
    server.answer, server.asked, server.may_answer = b"True", [], threading.Event()
    server.may_answer.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.may_answer.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_answer_of_another_service_is_not_cached(make_authorizer: MakeAuthorizer, rule_server: Any) -> None:
    url = f"http://127.0.0.1:{rule_server.server_port}/%(queue_name)s"
    authorizer = make_authorizer(f'"judged": "{url}"\n"messages:create": "not role:x and rule:judged"\n')
    for answer in (b"True", b"False", b'"True"', b"no"):
        rule_server.answer = answer
        queue_name = QueueName("p", QUEUE, "q1")
        if b"True" in answer:
            authorizer.check(MEMBER, "messages:create", queue_name)
        else:
            with pytest.raises(Forbidden):
                authorizer.check(MEMBER, "messages:create", queue_name)
    assert rule_server.asked == ["/q1"] * 4
    rule_server.answer = b"True"
    with pytest.raises(Forbidden):
        # No URL can be made for this target.
        authorizer.check(MEMBER, "messages:create", QueueName("p", TOPIC, "q1"))
    assert len(rule_server.asked) == 4
    # A rule without an http check does not ask the server.
    assert allowed(authorizer, "queues:create", MEMBER)
    assert len(rule_server.asked) == 4


def test_another_service_may_decide_who_is_admin(make_authorizer: MakeAuthorizer, rule_server: Any) -> None:
    url = f"http://127.0.0.1:{rule_server.server_port}/"
    authorizer = make_authorizer(
        f'"context_is_admin": "{url}"\n"queues:get": "is_admin:True"\n"queues:create": "role:x"\n'
    )
    assert not allowed(authorizer, "queues:create", MEMBER)
    assert rule_server.asked == []
    assert allowed(authorizer, "queues:get", MEMBER)
    rule_server.answer = b"False"
    assert not allowed(authorizer, "queues:get", MEMBER)
    assert rule_server.asked == ["/"] * 2


def test_a_service_that_does_not_answer_is_a_503(tmp_path: Path, rule_server: Any) -> None:
    (tmp_path / "zaqar.conf").write_text("[oslo_policy]\nremote_timeout = 0.2\n")
    (tmp_path / "policy.yaml").write_text(f'"queues:create": "http://127.0.0.1:{rule_server.server_port}/"\n')
    authorizer = Authorizer(conf.load(["--config-file", str(tmp_path / "zaqar.conf")]))
    rule_server.may_answer.clear()
    with pytest.raises(PolicyUnavailable) as raised:
        authorizer.check(MEMBER, "queues:create")
    assert (raised.value.status, raised.value.retry_after) == (503, 5)
    rule_server.may_answer.set()
    rule_server.shutdown()
    rule_server.server_close()
    with pytest.raises(PolicyUnavailable):
        authorizer.check(MEMBER, "queues:create")


# -- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_swaps_all_rules_or_none(tmp_path: Path) -> None:
    (tmp_path / "zaqar.conf").write_text("")
    loaded = conf.load(["--config-file", str(tmp_path / "zaqar.conf")])
    path = tmp_path / "policy.yaml"
    path.write_text('"queues:create": "role:member"\n"queues:get": "role:member"\n')
    authorizer = Authorizer(loaded)
    for broken in ('"queues:create": ""\n"queues:get": "rule:nowhere"\n', '"queues:create": ""\n"queues:ge'):
        path.write_text(broken)
        with pytest.raises(StartupError):
            authorizer.reload(loaded)
        assert not allowed(authorizer, "queues:create", READER)
    path.write_text('"queues:create": "role:reader"\n')
    authorizer.reload(loaded)
    assert [allowed(authorizer, "queues:create", who) for who in (READER, MEMBER)] == [True, False]
    assert allowed(authorizer, "queues:get", READER)


def test_targets_of_all_rules() -> None:
    names = {rule.name: target_names(rule.name) - {"project_id", "tenant_id", "user_id"} for rule in list_rules()}
    both = {"queue_name", "topic_name", "kind"}
    assert names["messages:create"] == both
    assert names["subscription:get_all"] == both
    assert names["subscription:resend"] == both | {"scheme"}
    assert names["queues:get_all"] == {"kind"}
    assert names["claims:get"] == {"queue_name", "kind"}
    assert names["pools:get_all"] == set()
    assert names["flavors:update"] == {"flavor_name"}
    assert names["health:get"] == names["context_is_admin"] == set()


def test_no_rule_replaces_a_deprecated_one() -> None:
    """LoadedPolicy would have to handle them like Enforcer.load_rules()."""
    assert [rule.name for rule in list_rules() if rule.deprecated_rule or rule.deprecated_for_removal] == []


def test_no_rule_is_for_tokens_of_one_scope() -> None:
    """System-scoped tokens are recognised by their missing project."""
    assert [rule.name for rule in list_rules() if rule.scope_types] == []
