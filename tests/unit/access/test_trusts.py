# SPDX-License-Identifier: Apache-2.0
"""Trusts for callers of the API: which trusts are accepted, and how many requests ask Keystone at a time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from keystoneauth1 import loading

from zaqar import conf as configuration
from zaqar.access import trusts
from zaqar.access.trust_answers import MadeTrust, TrustGone, TrustRefused, TrustToken
from zaqar.access.trusts import SILENCE_SECONDS, Bounds, RequestTrusts, open_trustee
from zaqar.conf.access import TRUSTEE_OPTS
from zaqar.context import Context
from zaqar.errors import Forbidden, InvalidInput, KeystoneUnavailable, StartupError

MEMBER = frozenset({"member"})


def a_context(project: str = "p1", **fields: Any) -> Context:
    return Context(project, "c", **{"user_id": "ann", "token": "t", "roles": MEMBER, **fields})


class Trustee:
    def __init__(self) -> None:
        self.token: TrustToken | Exception = TrustToken("x", 1.0, "p1", "ann", "ann", MEMBER)
        self.made: list[tuple[str, str, float]] = []
        self.wait: Callable[[], object] = lambda: None

    def create(self, token: str, *, project: str, expires: float) -> MadeTrust:
        self.made.append((token, project, expires))
        self.wait()
        return MadeTrust("new", "ann", expires)

    def token_of(self, trust_id: str) -> TrustToken:
        self.wait()
        if isinstance(self.token, Exception):
            raise self.token
        return self.token

    def delete(self, trust_id: str) -> None:
        raise AssertionError


def test_a_trust_is_made_with_the_token_of_the_caller() -> None:
    trustee = Trustee()
    assert RequestTrusts(trustee, Bounds(4, 4)).create(a_context(), expires=5.0).id == "new"
    assert trustee.made == [("t", "p1", 5.0)]


def test_without_a_token_no_trust_is_made() -> None:
    trustee = Trustee()
    with pytest.raises(Forbidden, match="signed URL"):
        RequestTrusts(trustee, Bounds(4, 4)).create(a_context(token=None, signed=True), expires=5.0)
    assert trustee.made == []


def test_the_callers_own_trust_is_accepted() -> None:
    RequestTrusts(Trustee(), Bounds(4, 4)).check(a_context(), "t1")


@pytest.mark.parametrize(
    "token",
    [
        TrustToken("x", 1.0, "p2", "ann", "ann", MEMBER),
        TrustToken("x", 1.0, "p1", "bob", "bob", MEMBER),
        TrustToken("x", 1.0, "p1", "zaqar", "ann", MEMBER),
        TrustToken("x", 1.0, "p1", "ann", "bob", MEMBER),
        TrustToken("x", 1.0, "p1", "ann", "ann", MEMBER | {"admin"}),
        TrustGone(),
        TrustRefused("why is not for everybody"),
    ],
)
def test_a_trust_of_another_user_is_refused(token: TrustToken | Exception) -> None:
    trustee = Trustee()
    trustee.token = token
    with pytest.raises(InvalidInput) as refused:
        RequestTrusts(trustee, Bounds(4, 4)).check(a_context(), "t1")
    assert refused.value.field == "options.trust_id"
    assert refused.value.reason.startswith("must be your own trust")


def test_a_caller_without_a_user_has_no_trusts() -> None:
    trustee = Trustee()
    with pytest.raises(InvalidInput):
        RequestTrusts(trustee, Bounds(4, 4)).check(a_context(user_id=None), "t1")


class ManyRequests:
    """Concurrent requests to a Keystone that answers when the test says so."""

    def __init__(self, bounds: Bounds, *, patience: float = 30.0) -> None:
        self.trustee = Trustee()
        self.trustee.wait = self._hold
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.now = 0.0
        self.requests = RequestTrusts(self.trustee, bounds, patience=patience, monotonic=lambda: self.now)
        self.pool = ThreadPoolExecutor(32)
        self.callers: list[Future[MadeTrust]] = []

    def _hold(self) -> None:
        self.begun.release()
        assert self.go.wait(30)

    def ask(self, project: str, *, waits: bool = False) -> None:
        """Start one more request, which gets a slot at once, or waits for a slot."""
        self.callers.append(self.pool.submit(self.requests.create, a_context(project), expires=1.0))
        if not waits:
            assert self.begun.acquire(timeout=30)
            return
        waiting = sum(not caller.done() for caller in self.callers) - self.requests._asking.total()
        end = time.monotonic() + 30
        while self.requests._waiting.total() < waiting:
            assert time.monotonic() < end
            time.sleep(0.005)

    def refused(self, project: str) -> bool:
        refusals = 0
        for call in (
            lambda: self.requests.create(a_context(project), expires=1.0),
            lambda: self.requests.check(a_context(project), "x"),
        ):
            try:
                call()
            except KeystoneUnavailable:
                refusals += 1
        assert refusals in (0, 2)
        return refusals == 2

    def end(self) -> None:
        self.go.set()
        self.pool.shutdown()
        assert not self.requests._asking and not self.requests._waiting and not self.requests._begun


def test_few_requests_ask_at_a_time_and_some_wait() -> None:
    """There are limits for one project and in all. Further requests are refused at once."""
    many_requests = ManyRequests(Bounds(4, 4))
    for _ in range(2):
        many_requests.ask("p1")
    for _ in range(2):
        many_requests.ask("p1", waits=True)
    assert many_requests.refused("p1")
    many_requests.ask("p2")
    many_requests.ask("p3")
    many_requests.ask("p4", waits=True)
    many_requests.ask("p5", waits=True)
    assert many_requests.refused("p6")
    many_requests.end()
    assert [each.result().id for each in many_requests.callers] == 8 * ["new"]
    assert not many_requests.refused("p1")


def test_no_request_waits_if_keystone_does_not_answer() -> None:
    many_requests = ManyRequests(Bounds(2, 8))
    many_requests.ask("p1")
    many_requests.ask("p2")
    many_requests.ask("p3", waits=True)
    many_requests.now = SILENCE_SECONDS
    assert many_requests.refused("p4")
    with many_requests.requests._changed:
        many_requests.requests._changed.notify_all()
    assert isinstance(many_requests.callers[2].exception(30), KeystoneUnavailable)
    many_requests.end()


def test_a_request_waits_for_a_limited_time() -> None:
    many_requests = ManyRequests(Bounds(1, 8), patience=0.0)
    many_requests.ask("p1")
    assert many_requests.refused("p2")
    many_requests.end()


def test_a_server_with_few_threads_allows_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={"threads": b"4"}))
    assert Bounds.of_server() == (1, 0)
    many_requests = ManyRequests(Bounds.of_server())
    many_requests.ask("p1")
    assert many_requests.refused("p2")
    many_requests.end()


def test_a_failed_request_releases_its_slot() -> None:
    trustee = Trustee()
    trustee.token = KeystoneUnavailable()
    requests = RequestTrusts(trustee, Bounds(4, 4))
    for _ in range(9):
        with pytest.raises(KeystoneUnavailable):
            requests.check(a_context(), "t1")
    trustee.token = TrustToken("x", 1.0, "p1", "ann", "ann", MEMBER)
    requests.check(a_context(), "t1")


# -- the configuration -------------------------------------------------------------------------------------------------


def a_conf(tmp_path: Any, text: str) -> Any:
    path = tmp_path / "zaqar.conf"
    path.write_text(text)
    return configuration.load(["--config-file", str(path)])


def test_without_keystone_nothing_is_loaded(tmp_path: Any) -> None:
    assert open_trustee(a_conf(tmp_path, "[trustee]\nauth_type = password\n")) is None


def test_without_the_group_there_are_no_trusts(tmp_path: Any) -> None:
    conf = a_conf(tmp_path, "[DEFAULT]\nauth_strategy = keystone\n")
    assert open_trustee(conf) is None
    assert RequestTrusts.from_conf(conf) is None


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("auth_type = nonsense", "[trustee] auth_type"),
        ("auth_type = none", "'none' cannot use trusts"),
        ("auth_type = password", "[trustee]: "),
        ("auth_section = other", "[other] auth_type: must be set"),
        ("auth_type = password\nauth_url = http://127.0.0.1:9/v3\ntimeout = soon", "[trustee] timeout"),
        ("auth_type = password\nauth_url = http://127.0.0.1:9/v3\ncafile = /nowhere", "[trustee] cafile"),
    ],
)
def test_wrong_options_are_named_at_the_start(tmp_path: Any, lines: str, named: str) -> None:
    conf = a_conf(tmp_path, f"[DEFAULT]\nauth_strategy = keystone\n[trustee]\n{lines}\n")
    with pytest.raises(StartupError) as failed:
        open_trustee(conf)
    assert named in str(failed.value)


def test_a_shared_section_may_have_a_project(tmp_path: Any) -> None:
    lines = "[trustee]\nauth_section = keystone_authtoken\n[keystone_authtoken]\nauth_type = password\n"
    lines += "auth_url = http://127.0.0.1:9/v3\nusername = zaqar\npassword = x\nproject_name = service\n"
    conf = a_conf(tmp_path, f"[DEFAULT]\nauth_strategy = keystone\n{lines}")
    trustee: Any = open_trustee(conf)
    plugin = trustee._load("t1")
    assert (plugin._trust_id, plugin._project_name) == ("t1", None)
    assert conf.trustee.timeout == 5


def test_the_options_are_those_of_the_library() -> None:
    of_library = [*loading.get_auth_common_conf_options(), *loading.get_session_conf_options()]
    of_library += loading.get_auth_plugin_conf_options("password")
    known = {option.dest: option for option in of_library}
    for option in TRUSTEE_OPTS:
        assert option.secret == bool(known[option.dest].secret), option.dest


def test_the_library_is_loaded_for_keystone_only() -> None:
    assert "keystoneauth1" not in vars(trusts)
