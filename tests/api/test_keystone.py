# SPDX-License-Identifier: Apache-2.0
"""Callers have the identity of their token: each kind of token, and how often the service asks Keystone about it."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from falcon import testing

from tests import servers
from tests.api.authenticated import AuthenticatedApi
from tests.api.client import ALICE
from tests.keystone import PASSWORD, Keystone
from zaqar.access import signed_urls
from zaqar.errors import Unauthorized

UNAUTHORIZED = {
    "error": {
        "code": 401,
        "title": "Unauthorized",
        "message": "The request you have made requires authentication.",
    }
}
SECRET_KEY = "a-key-for-signatures-of-the-tests-only"


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    """A Keystone for this module, which changes accounts."""
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


@pytest.fixture(scope="module")
def tokens(keystone: Keystone) -> dict[str, str]:
    """A token of each user for a project. No test may change the users' roles."""
    users = {"member": "demo", "reader": "demo", "admin": "demo", "stranger": "other", "aodh": "service"}
    return {user: keystone.token(user, project) for user, project in users.items()}


@pytest.fixture
def make_api(keystone: Keystone, tmp_path: Path) -> Callable[..., AuthenticatedApi]:
    def make(lines: str = "", **options: Any) -> AuthenticatedApi:
        return AuthenticatedApi(keystone, tmp_path, lines, **options)

    return make


@pytest.fixture
def api(make_api: Callable[..., AuthenticatedApi]) -> AuthenticatedApi:
    return make_api()


def assert_unauthorized(result: testing.Result, keystone: Keystone) -> None:
    assert result.status_code == 401, result.text
    assert result.json == UNAUTHORIZED
    assert result.headers["Content-Type"] == "application/json"
    assert result.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.uri}"'
    assert result.headers["X-OpenStack-Request-ID"].startswith("req-")


# -- admission ---------------------------------------------------------------------------------------------------------


PATHS = ["/v2/", "/v2/ping", "/v2/queues", "/v2/openapi.json", "/v2/asyncapi.json", "/v2/health", "/nothing", "//"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "", " ", "bad", "a,b", "caf\xe9", "a b", "x" * 5000])
def test_without_a_valid_token_every_path_has_the_same_answer(
    api: AuthenticatedApi, keystone: Keystone, path: str, token: str | None
) -> None:
    assert_unauthorized(api.get(path, token=token), keystone)
    assert_unauthorized(api.request("PATCH", path, token=token), keystone)


def test_keystone_is_not_asked_about_a_malformed_token(api: AuthenticatedApi) -> None:
    for token in ("", " ", "caf\xe9", "a b"):
        assert api.status(token=token) == 401
    assert api.questions == 0


def test_the_project_of_a_request_is_that_of_its_token(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str]
) -> None:
    other = keystone.id_of("project", "other")
    assert api.status("/v2/queues/q", "PUT", token=tokens["member"], X_Project_ID=other) == 201
    assert [queue["name"] for queue in api.get(token=tokens["reader"]).json["queues"]] == ["q"]
    assert api.get(token=tokens["stranger"]).json["queues"] == []
    assert api.get(token=tokens["stranger"], X_Project_ID=keystone.id_of("project", "demo")).json["queues"] == []
    assert api.status(token=tokens["member"], X_Project_ID="a,b") == 200, "an ignored header cannot be wrong"
    assert api.parts.management.queue_records.count(project=keystone.id_of("project", "demo"), kind="queue") == 1


@pytest.mark.parametrize(("user", "status"), [("admin", 200), ("member", 403), ("reader", 403), ("stranger", 403)])
def test_the_roles_of_a_caller_are_those_of_the_token(
    api: AuthenticatedApi, tokens: dict[str, str], user: str, status: int
) -> None:
    assert api.status("/v2/health", token=tokens[user]) == status
    assert api.status("/v2/health", token=tokens[user], X_Roles="admin" if status == 403 else "reader") == status


def test_the_policy_gets_the_caller_of_the_token(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = seen_callers(api, monkeypatch)
    token = keystone.token("admin", system=True)
    assert api.status("/v2/queues/q/stats", token=f" {tokens['member']} ") == 200
    assert api.status("/v2/health", token=token) == 200
    member, admin = callers
    assert member.project == keystone.id_of("project", "demo")
    assert member.user_id == keystone.id_of("user", "member")
    assert member.roles == {"member", "reader"}
    assert (member.signed, member.system_scope, member.token) == (False, None, tokens["member"])
    assert (admin.project, admin.system_scope, admin.token) == ("", "all", token)
    assert "admin" in admin.roles
    assert token not in repr(admin)


def seen_callers(api: AuthenticatedApi, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The callers about whom the policy is asked from now on."""
    callers: list[Any] = []
    check = api.parts.authorizer.check

    def record(context: Any, *arguments: Any, **named: Any) -> None:
        callers.append(context)
        check(context, *arguments, **named)

    monkeypatch.setattr(api.parts.authorizer, "check", record)
    return callers


@pytest.mark.parametrize(
    "scope", [{"unscoped": True}, {"domain": "Default"}, {"system": True}], ids=lambda s: next(iter(s))
)
def test_a_token_without_a_project_is_refused_on_the_paths_of_a_project(
    api: AuthenticatedApi, keystone: Keystone, scope: dict[str, Any]
) -> None:
    token = keystone.token("admin", **scope)
    for path in ("/v2/", "/v2/ping", "/v2/queues", "/v2/queues/q", "/v2/topics"):
        result = api.get(path, token=token)
        assert result.status_code == 403, result.text
        assert "no project" in result.json["description"]
    assert api.status("/v2/queues", token=token, X_Project_ID="demo") == 403
    # The documents that describe the API belong to no project.
    assert api.status("/v2/openapi.json", token=token) == 200
    assert api.status("/v2/asyncapi.json", token=token) == 200


def test_a_token_of_the_system_administers(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone, tokens: dict[str, str]
) -> None:
    api = make_api(pooling=True)
    token = keystone.token("admin", system=True)
    pool = {"uri": "sqlite:///:memory:", "weight": 1}
    for path in ("/v2/health", "/v2/pools", "/v2/flavors"):
        assert api.status(path, token=token) == 200, path
        assert api.status(path, token=keystone.token("admin", domain="Default")) == 403, path
    assert api.status("/v2/pools/none", token=token) == 404
    assert api.status("/v2/flavors/none", token=token) == 404
    assert api.status("/v2/pools", token=tokens["member"]) == 403
    assert api.request("PUT", "/v2/pools/p", {**pool, "weight": "x"}, token=token).status_code == 400


def test_a_trust_makes_its_trustor_of_the_trustee(api: AuthenticatedApi, keystone: Keystone) -> None:
    user = keystone.new_user()
    token = keystone.token("zaqar", trust=keystone.trust(user))
    assert api.status("/v2/queues/of-the-trust", "PUT", token=token) == 201
    names = [queue["name"] for queue in api.get(token=keystone.token(user)).json["queues"]]
    assert names == ["of-the-trust"]
    keystone.set_enabled(user, False)
    api.forget()
    # Keystone answers 403 to the validation. This is about the trust and not about the service's own account.
    assert_unauthorized(api.get(token=token), keystone)
    asked = api.questions
    assert_unauthorized(api.get(token=token), keystone)
    assert api.questions == asked
    assert api.status(token=keystone.token("reader")) == 200, "Keystone is not treated as unreachable"


def test_a_trust_whose_trustor_lost_the_role_is_refused(api: AuthenticatedApi, keystone: Keystone) -> None:
    user = keystone.new_user()
    token = keystone.token("zaqar", trust=keystone.trust(user))
    assert api.status(token=token) == 200
    keystone.withdraw("member", user)
    api.forget()
    assert_unauthorized(api.get(token=token), keystone)


@pytest.mark.parametrize("header", ["X_Auth_Token", "X_Storage_Token"])
def test_the_token_may_be_in_x_auth_token_or_x_storage_token(
    api: AuthenticatedApi, tokens: dict[str, str], header: str
) -> None:
    assert api.status(**{header: tokens["member"]}) == 200
    # The library uses the first of these headers that is present, even if it is empty.
    assert api.status(X_Auth_Token="", X_Storage_Token=tokens["member"]) == 401
    assert api.status(X_Auth_Token="bad", X_Storage_Token=tokens["member"]) == 401
    assert api.status(X_Auth_Token=tokens["member"], X_Storage_Token="bad") == 200


# -- application credentials -------------------------------------------------------------------------------------------


def test_an_application_credential_is_accepted(api: AuthenticatedApi, keystone: Keystone) -> None:
    token = keystone.token_of(keystone.application_credential())
    assert [api.status(token=token), api.status("/v2/queues/a", "PUT", token=token)] == [200, 201]
    assert api.questions == 1


RULES = [("GET", "/v2/queues"), ("POST", "/v2/queues/{name}/messages"), ("GET", "/v2/topics/**")]


@pytest.fixture(scope="module")
def restricted(keystone: Keystone) -> str:
    """A token of an application credential whose access rules open two requests only."""
    return keystone.token_of(keystone.application_credential(access_rules=RULES))


def test_access_rules_restrict_methods_and_paths(api: AuthenticatedApi, restricted: str) -> None:
    body = {"messages": [{"body": 1, "ttl": 300}]}
    allowed = [("GET", "/v2/queues"), ("POST", "/v2/queues/q/messages"), ("GET", "/v2/topics/t/stats")]
    refused = [
        ("HEAD", "/v2/queues"),
        ("GET", "/v2/queues/q"),
        ("GET", "/v2/queues/q/messages"),
        ("POST", "/v2/queues/q/r/messages"),
        ("PUT", "/v2/topics/t"),
        ("GET", "/v2/"),
        ("GET", "/V2/queues"),
    ]
    for _ in range(2):
        for method, path in allowed:
            assert api.request(method, path, body if method == "POST" else None, token=restricted).status_code < 300
        for method, path in refused:
            assert api.status(path, method, token=restricted) == 401, (method, path)
    # The rules are checked for each request. Keystone is asked once.
    assert api.questions == 1


def test_without_a_request_access_rules_are_not_asked_and_nothing_is_remembered(
    api: AuthenticatedApi, restricted: str
) -> None:
    """So a connection can authenticate once, and each of its actions can be checked later."""
    for _ in range(2):
        assert api.tokens.validate(restricted).user_id is not None
        with pytest.raises(Unauthorized):
            api.tokens.validate(restricted, method="DELETE", path="/v2/queues/q")
        assert api.tokens.validate(restricted, method="GET", path="/v2/queues").user_id is not None
    assert api.questions == 1


def test_access_rules_name_the_path_that_clients_see(api: AuthenticatedApi, keystone: Keystone) -> None:
    api.mounted_at = "/messaging"
    token = keystone.token_of(keystone.application_credential(access_rules=[("GET", "/messaging/v2/queues")]))
    assert api.status("/v2/queues", token=token) == 200
    assert api.status("/v2/topics", token=token) == 401
    # A mount path that a client repeats counts once, and the rules are checked against the path with one of them.
    assert api.status("/v2/messaging/v2/topics", token=token) == 401


def test_a_decision_of_access_rules_is_not_reused_for_another_request(api: AuthenticatedApi, restricted: str) -> None:
    """Not even while Keystone is asked about the same token for the other request."""
    asking, may_answer = threading.Event(), threading.Event()
    verify = api.library._identity_server.verify_token

    def slow(*arguments: Any, **named: Any) -> Any:
        asking.set()
        assert may_answer.wait(30)
        return verify(*arguments, **named)

    api.library._identity_server.verify_token = slow
    with ThreadPoolExecutor(4) as pool:
        allowed = pool.submit(api.status, "/v2/queues", token=restricted)
        assert asking.wait(30)
        refused = [pool.submit(api.status, "/v2/ping", token=restricted) for _ in range(3)]
        may_answer.set()
        assert allowed.result(30) == 200
        assert [each.result(30) for each in refused] == [401] * 3
    assert api.status("/v2/queues", token=restricted) == 200


def test_access_rules_without_a_catalogue_are_refused_and_logged(
    make_api: Callable[..., AuthenticatedApi], restricted: str, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api("include_service_catalog = False")
    assert api.status(token=tokens["member"]) == 200
    assert api.status(token=restricted) == 401
    assert "include_service_catalog" in caplog.text


# -- service tokens ----------------------------------------------------------------------------------------------------


def test_a_service_token_is_validated_and_lends_no_roles(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str]
) -> None:
    member, service = tokens["member"], tokens["aodh"]
    assert api.status(token=member, X_Service_Token=service) == 200
    assert api.status("/v2/health", token=member, X_Service_Token=service) == 403, "the service token adds no roles"
    assert api.status(token=member, X_Service_Token="") == 200
    for bad in ("bad", tokens["reader"], tokens["admin"], "caf\xe9"):
        assert_unauthorized(api.get(token=member, X_Service_Token=bad), keystone)
    assert api.status(X_Service_Token=service) == 401
    assert api.status(token=member) == 200


def test_a_service_token_is_checked_each_time(api: AuthenticatedApi, tokens: dict[str, str]) -> None:
    for _ in range(3):
        assert api.status(token=tokens["member"], X_Service_Token=tokens["aodh"]) == 200
        assert api.status(token=tokens["member"], X_Service_Token=tokens["reader"]) == 401
        assert api.status(token=tokens["member"]) == 200
    assert api.questions <= 4, "each token once, and one more after the member's was cached"


def test_the_scope_of_a_service_is_not_that_of_its_user(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str]
) -> None:
    service = keystone.token("zaqar", "service")
    system = keystone.token("admin", system=True)
    assert api.status("/v2/health", token=system, X_Service_Token=service) == 200
    assert api.status("/v2/queues", token=system, X_Service_Token=service) == 403


def test_an_expired_token_is_refused_unless_a_service_token_comes_with_it(tmp_path: Path) -> None:
    """A token may also expire while it is cached. Only together with a service token can it still be used."""
    keystone = servers.own(lambda: Keystone(token_seconds=3))
    try:
        api = AuthenticatedApi(keystone, tmp_path)
        token = keystone.token()
        assert api.status(token=token) == 200
        end = datetime.fromisoformat(keystone.inspect(token)["expires_at"]).timestamp()
        time.sleep(max(0.0, end - time.time()))
        assert_unauthorized(api.get(token=token), keystone)
        service = keystone.token("aodh", "service")
        assert api.status(token=token, X_Service_Token=service) == 200
        assert_unauthorized(api.get(token=token), keystone)
        assert_unauthorized(api.get(token=token, X_Service_Token=keystone.token()), keystone)
    finally:
        keystone.stop()


# -- forged headers ----------------------------------------------------------------------------------------------------

LIES = {
    **{f"X_{name}": "admin" for name in ("Roles", "Role", "User", "User_Name", "Tenant", "Tenant_Name")},
    **{f"X_{name}": "demo" for name in ("Project_Name", "Project_Domain_Id", "Domain_Id", "Domain_Name")},
    **{f"X_{name}": "e2f6e4bba1ed4a4bb3b1e2b0b5e1c6a0" for name in ("Project_Id", "Tenant_Id", "User_Id")},
    "X_User_Domain_Id": "default",
    "X_Is_Admin_Project": "True",
    "X_Identity_Status": "Confirmed",
    "X_Service_Identity_Status": "Confirmed",
    "X_Service_Roles": "admin,service",
    "X_Service_User_Id": "zaqar",
    "X_Service_Project_Id": "demo",
    "X_Service_Catalog": "[]",
    "OpenStack_System_Scope": "all",
}


@pytest.mark.parametrize("lie", [*LIES, "all"])
def test_headers_cannot_change_the_identity_of_a_caller(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    lies = LIES if lie == "all" else {lie: LIES[lie]}
    assert_unauthorized(api.get(**lies), keystone)
    callers = seen_callers(api, monkeypatch)
    assert api.status("/v2/queues", token=tokens["reader"], **lies) == 200
    assert api.status("/v2/health", token=tokens["reader"], **lies) == 403
    assert api.status("/v2/queues", token=keystone.token("nobody", unscoped=True), **lies) == 403
    assert {caller.project for caller in callers} == {keystone.id_of("project", "demo")}
    assert {caller.user_id for caller in callers} == {keystone.id_of("user", "reader")}
    assert {caller.roles for caller in callers} == {frozenset({"reader"})}
    assert {caller.system_scope for caller in callers} == {None}
    assert api.status("/", **lies) == 300


# -- requests without a token ------------------------------------------------------------------------------------------


def test_only_the_versions_and_the_confirmation_page_are_open(api: AuthenticatedApi, tokens: dict[str, str]) -> None:
    assert [api.status("/"), api.status("/", token="bad"), api.status("/", "PUT")] == [300, 300, 405]
    assert api.status("/confirm") != 401
    for path in ("//", "/confirm/", "/confirm/x", "/Confirm", "/v2", "/v2/confirm", "/%2F", "/v2/../"):
        assert api.status(path) == 401, path
    assert api.questions == 0
    assert api.status("/v2/openapi.json", token=tokens["reader"]) == 200


def test_the_same_paths_are_open_below_a_mount_path(api: AuthenticatedApi) -> None:
    api.mounted_at = "/messaging"
    assert [api.status("/"), api.status("/v2/"), api.status("/messaging")] == [300, 401, 401]


def test_a_preflight_needs_no_token(make_api: Callable[..., AuthenticatedApi], keystone: Keystone) -> None:
    asked = {"Origin": "https://console.example", "Access_Control_Request_Method": "GET"}
    without = make_api()
    assert without.status("/v2/queues", "OPTIONS", **asked) == 401, "other origins are not allowed"
    api = make_api(cors__allowed_origin=["https://console.example"], cors__allow_headers=["X-Auth-Token"])
    result = api.request("OPTIONS", "/v2/queues", **asked)
    assert result.status_code == 200
    assert "GET" in result.headers["Access-Control-Allow-Methods"]
    assert result.headers["Access-Control-Allow-Headers"] == "X-Auth-Token"
    # Any other OPTIONS request is no preflight.
    assert api.status("/v2/queues", "OPTIONS") == 401
    refused = api.get("/v2/queues", Origin="https://console.example")
    assert_unauthorized(refused, keystone)
    assert refused.headers["Access-Control-Allow-Origin"] == "https://console.example"


# -- signatures --------------------------------------------------------------------------------------------------------


def sign(api: AuthenticatedApi, project: str, path: str = "/v2/queues/q/messages", **changed: str) -> dict[str, str]:
    expires = signed_urls.format_time(api.clock() + 3600)
    signature = signed_urls.sign(SECRET_KEY, project=project, paths=[path], methods=["GET"], expires=expires)
    return {
        "URL_Signature": signature,
        "URL_Expires": expires,
        "URL_Methods": "GET",
        "URL_Paths": path,
        "X_Project_ID": project,
        **changed,
    }


def test_a_signature_needs_no_token(
    make_api: Callable[..., AuthenticatedApi],
    keystone: Keystone,
    tokens: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = make_api(signed_url__secret_key=SECRET_KEY)
    project = keystone.id_of("project", "demo")
    message = {"messages": [{"body": "here", "ttl": 300}]}
    assert api.request("POST", "/v2/queues/q/messages", message, token=tokens["member"]).status_code == 201
    callers = seen_callers(api, monkeypatch)
    signed = sign(api, project)
    for token in (None, "bad", tokens["stranger"], tokens["admin"]):
        result = api.get("/v2/queues/q/messages?echo=true", token=token, **signed)
        assert [each["body"] for each in result.json["messages"]] == ["here"]
    for caller in callers:
        assert (caller.project, caller.user_id, caller.roles) == (project, None, frozenset())
        assert (caller.signed, caller.system_scope, caller.token) == (True, None, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"URL_Signature": "0" * 64},
        {"URL_Signature": ""},
        {"URL_Paths": "/v2/health"},
        {"URL_Methods": "GET,PUT"},
        {"URL_Expires": "2099-01-01T00:00:00"},
        {"X_Project_ID": "other"},
    ],
    ids=lambda changed: "-".join(next(iter(changed.items())))[:24],
)
@pytest.mark.parametrize("who", ["nobody", "admin"])
def test_a_signature_that_does_not_open_a_path_is_404_even_beside_a_token(
    make_api: Callable[..., AuthenticatedApi],
    keystone: Keystone,
    tokens: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    who: str,
) -> None:
    api = make_api(signed_url__secret_key=SECRET_KEY)
    callers = seen_callers(api, monkeypatch)
    signed = sign(api, keystone.id_of("project", "demo"), **changed)
    token = tokens.get(who)
    for path in ("/", "/v2/", "/v2/openapi.json", "/v2/health", "/v2/queues", "/v2/queues/q/messages", "/nothing"):
        for method in ("GET", "PUT", "POST", "OPTIONS"):
            result = api.request(method, path, token=token, **signed, X_Roles="admin", X_Identity_Status="Confirmed")
            assert result.status_code == 404, (method, path, result.text)
    assert callers == []


def test_without_a_key_every_signature_is_refused(api: AuthenticatedApi, keystone: Keystone) -> None:
    for key in ("", "None"):
        project = keystone.id_of("project", "demo")
        expires = signed_urls.format_time(api.clock() + 3600)
        path = "/v2/queues/q/messages"
        signature = signed_urls.sign(key, project=project, paths=[path], methods=["GET"], expires=expires)
        assert api.status(path, **sign(api, project, URL_Signature=signature, URL_Expires=expires)) == 404


# -- cached tokens -----------------------------------------------------------------------------------------------------


def test_keystone_is_asked_once_about_a_valid_token_in_token_cache_time(
    api: AuthenticatedApi, tokens: dict[str, str]
) -> None:
    for _ in range(5):
        assert api.status(token=tokens["member"]) == 200
    assert api.questions == 1
    api.clock.advance(299)
    assert (api.status(token=tokens["member"]), api.questions) == (200, 1)
    api.clock.advance(2)
    assert (api.status(token=tokens["member"]), api.questions) == (200, 2)
    # A clock that is set back does not extend the time for which the token is valid.
    api.clock.advance(-3600)
    assert (api.status(token=tokens["member"]), api.questions) == (200, 3)


@pytest.mark.parametrize(("seconds", "questions"), [(-1, 3), (0, 3), (60, 1)])
def test_token_cache_time_sets_how_often_keystone_is_asked(
    make_api: Callable[..., AuthenticatedApi], tokens: dict[str, str], restricted: str, seconds: int, questions: int
) -> None:
    api = make_api(f"token_cache_time = {seconds}")
    for token in (tokens["member"], restricted):
        api.questions = 0
        assert [api.status(token=token) for _ in range(3)] == [200] * 3
        assert api.questions == questions


def test_a_revoked_token_is_valid_for_no_longer_than_token_cache_time(
    api: AuthenticatedApi, keystone: Keystone
) -> None:
    token = keystone.token()
    assert api.status(token=token) == 200
    keystone.revoke(token)
    assert api.status(token=token) == 200
    api.clock.advance(300)
    assert_unauthorized(api.get(token=token), keystone)


def test_a_revoked_token_beside_a_service_token_is_valid_for_no_longer_than_token_cache_time(
    api: AuthenticatedApi, keystone: Keystone, tokens: dict[str, str]
) -> None:
    token = keystone.token()
    assert api.status(token=token, X_Service_Token=tokens["aodh"]) == 200
    keystone.revoke(token)
    api.clock.advance(299)
    assert api.status(token=token) == 200, "from the cache of the first request"
    api.clock.advance(1)
    assert_unauthorized(api.get(token=token), keystone)


def test_keystone_is_asked_about_an_unknown_token_once_in_ten_seconds(
    api: AuthenticatedApi, tokens: dict[str, str]
) -> None:
    for _ in range(3):
        assert api.status(token="unknown") == 401
    assert api.questions == 1
    api.clock.advance(10)
    assert (api.status(token="unknown"), api.questions) == (401, 2)


def test_concurrent_requests_with_one_token_ask_keystone_once(api: AuthenticatedApi, tokens: dict[str, str]) -> None:
    answers = slow_answers(api)
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(api.status, token=tokens["member"]) for _ in range(6)]
        answers.set()
        assert [each.result(30) for each in waiting] == [200] * 6
    assert api.questions == 1


class SharedCache:
    """A client with the interface of python-memcached. All instances share one dictionary."""

    kept: ClassVar[dict[str, bytes]] = {}
    reads = 0

    def __init__(self, servers: list[str], **_: object) -> None:
        return

    def get(self, key: str) -> bytes | None:
        type(self).reads += 1
        return self.kept.get(key)

    def set(self, key: str, value: bytes, time: float) -> None:
        self.kept[key] = value


def test_tokens_are_shared_through_memcached_and_checked_again_after_a_minute(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone, monkeypatch: pytest.MonkeyPatch, restricted: str
) -> None:
    monkeypatch.setitem(sys.modules, "memcache", types.SimpleNamespace(Client=SharedCache, __spec__=object()))
    lines = "memcached_servers = 127.0.0.1:11211\nmemcache_use_advanced_pool = False"
    one, two = make_api(lines), make_api(lines)
    token = keystone.token()
    assert [one.status(token=token), two.status(token=token), two.status(token=token)] == [200] * 3
    assert (one.questions, two.questions, SharedCache.reads) == (1, 0, 2)
    two.clock.advance(59)
    assert (two.status(token=token), SharedCache.reads) == (200, 2)
    two.clock.advance(1)
    assert (two.status(token=token), SharedCache.reads) == (200, 3)
    # The parts of a decision that depend on the request are decided each time, from the cached token.
    for api in (one, two):
        assert [api.status(token=restricted), api.status("/v2/ping", token=restricted)] == [200, 401]
    assert (one.questions, two.questions) == (2, 0)
    assert token not in str(SharedCache.kept.keys())


def slow_answers(api: AuthenticatedApi) -> threading.Event:
    """Keystone answers after the returned event is set."""
    may_answer = threading.Event()
    verify = api.library._identity_server.verify_token

    def verify_token(*arguments: Any, **named: Any) -> Any:
        assert may_answer.wait(30)
        return verify(*arguments, **named)

    api.library._identity_server.verify_token = verify_token
    return may_answer


# -- the service's own account -----------------------------------------------------------------------------------------


def test_health_reports_the_state_of_keystone(api: AuthenticatedApi, tokens: dict[str, str]) -> None:
    report = api.get("/v2/health", token=tokens["admin"]).json
    assert report["keystone"] == {"reachable": True, "service_user_accepted": True}
    assert report["failed"] == []


def test_a_wrong_password_of_the_service_is_503(
    make_api: Callable[..., AuthenticatedApi], tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api()
    assert api.status(token=tokens["admin"]) == 200
    wrong = make_api("password = not-it")
    result = wrong.get(token=tokens["admin"])
    assert (result.status_code, result.headers["Retry-After"]) == (503, "1")
    assert set(result.json) == {"title", "description"}
    assert "identity service" in result.json["description"]
    assert "service user of [keystone_authtoken]" in str(wrong.tokens.check())
    # An administrator whose token is cached sees the failure in the health report.
    api.parts.conf.set_override("password", "not-it", "keystone_authtoken")
    report = api.get("/v2/health", token=tokens["admin"]).json
    assert report["keystone"] == {"reachable": True, "service_user_accepted": False}
    assert report["failed"] == ["keystone"]
    assert "service user of [keystone_authtoken]" in caplog.text
    assert "not-it" not in caplog.text


def test_a_service_user_without_the_right_to_validate_is_503(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone, tokens: dict[str, str]
) -> None:
    user = keystone.new_user("service", "member")
    api = make_api(f"username = {user}")
    assert api.status(token=tokens["member"]) == 503


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_no_token_and_no_password_is_logged(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    api = make_api()
    good, revoked, service = keystone.token(), keystone.token(), keystone.token("aodh", "service")
    keystone.revoke(revoked)
    for token in (good, revoked, "a-token-that-nobody-made"):
        api.status(token=token)
        api.status(token=token, X_Service_Token=service)
        api.status(token=good, X_Service_Token=token)
    own = caplog.text
    for secret in (good, revoked, service, "a-token-that-nobody-made", PASSWORD):
        assert secret not in own


def test_a_client_id_is_required_as_without_keystone(api: AuthenticatedApi, tokens: dict[str, str]) -> None:
    assert api.status(token=tokens["member"], Client_ID="") == 400
    assert api.status(token=tokens["member"], Client_ID=ALICE) == 200
