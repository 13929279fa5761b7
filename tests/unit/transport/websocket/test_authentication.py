# SPDX-License-Identifier: Apache-2.0
"""The identity of a connection, from ``authenticate`` to the end of the token."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from tests.clock import START, FakeClock
from tests.unit.transport.websocket.frames import FORMATS, HEADERS, PROJECT, Client, make_parts, pack
from tests.unit.transport.websocket.tokens import ALICE, Tokens, with_tokens
from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import KeystoneUnavailable
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.session import Session, Sessions

OTHER = "other-project"
BOB = Identity(OTHER, "bob", frozenset({"reader"}), None, START + 7200)
RENEWED = dataclasses.replace(ALICE, expires=START + 9000)
OVER = dataclasses.replace(ALICE, expires=START)
UNSCOPED = Identity(None, "alice", frozenset(), None, START + 3600)
SYSTEM = Identity(None, "root", frozenset({"admin"}), "all", START + 3600)
KNOWN = {
    "alice": ALICE,
    "renewed": RENEWED,
    "bob": BOB,
    "over": OVER,
    "unscoped": UNSCOPED,
    "system": SYSTEM,
    "limited": ALICE,
}


def whoami(parts: Parts, call: Call) -> Answer:
    caller = call.caller
    return Answer(200, {"project": caller.project, "user": caller.user_id, "roles": sorted(caller.roles)})


def action(name: str, path: str, **options: Any) -> Action:
    fields = {"queue_name": Field("string", "")} if "{queue_name}" in path else {}
    fields |= {"message_id": Field("string", "")} if "{message_id}" in path else {}
    return Action(name, "", "GET", path, whoami, fields, {200: ("", None)}, **options)


ACTIONS = {
    each.name: each
    for each in (
        action("whoami", "/v2/queues"),
        action("health", "/v2/health", of_deployment=True),
        action("message_get", "/v2/queues/{queue_name}/messages/{message_id}"),
    )
}


@pytest.fixture(scope="module")
def served() -> Parts:
    return make_parts()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def parts(served: Parts, clock: FakeClock) -> Parts:
    return dataclasses.replace(served, clock=clock)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(dict(KNOWN))


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def client(parts: Parts, tokens: Tokens, ended: list[str]) -> Client:
    sessions = Sessions(ACTIONS, end_subscriptions=ended.append)
    return Client(with_tokens(parts, tokens), sessions=sessions)


def authenticate(client: Client, token: str | None, **headers: Any) -> Any:
    headers = {"X_Project_ID": None, **headers}
    return client.call("authenticate", X_Auth_Token=token, **headers)


@pytest.mark.parametrize("format_", FORMATS)
def test_without_keystone_authenticate_always_succeeds(parts: Parts, format_: Format) -> None:
    client = Client(parts, ACTIONS, format_=format_)
    reply = client.call("authenticate", X_Auth_Token="whatever")
    assert reply == {
        "request": {"action": "authenticate", "body": {}, "api": "v2", "headers": {}},
        "body": {"message": "Authentified."},
        "headers": {"status": 200},
    }
    assert client.session.authenticated
    assert client.session.identity is None
    assert client.session.expires is None
    assert client.session.revalidate()
    assert client.status("whoami") == 200


def test_before_authentication_all_other_actions_are_refused(client: Client) -> None:
    reply = client.call("whoami")
    assert (reply["headers"]["status"], reply["body"]["error"]) == (403, "Not authentified.")
    assert not client.session.authenticated
    # A frame that cannot be read, or has no known action, gets the same error with and without a token.
    assert client.send("{")["headers"]["status"] == 400
    assert client.status("nope") == 400
    assert client.status("message_get", "x") == 403


def test_after_authentication_the_token_identifies_the_caller_and_headers_do_not(client: Client) -> None:
    assert authenticate(client, " alice ", X_Project_ID=PROJECT)["body"] == {"message": "Authentified."}
    assert client.session.identity == ALICE
    assert client.session.expires == ALICE.expires
    reply = client.call("whoami", X_Roles="admin", X_User_Id="root", X_Auth_Token="bob", OpenStack_System_Scope="all")
    assert reply["body"] == {"project": PROJECT, "user": "alice", "roles": ["member"]}
    assert client.status("whoami", X_Project_ID=OTHER) == 403
    assert client.status("whoami", X_Project_ID=None) == 400
    assert client.status("whoami", X_Project_ID="") == 400


@pytest.mark.parametrize(
    ("token", "headers", "status", "error"),
    [
        (None, {}, 400, "X-Auth-Token: is required in the headers of the frame"),
        ("", {}, 400, "X-Auth-Token: is required in the headers of the frame"),
        ("alice", {"Client_ID": "nope"}, 400, "Client-ID: must be a UUID"),
        ("alice", {"Client_ID": None}, 400, "Client-ID: is required in the headers of the frame"),
        ("nobody's", {}, 401, "Authentication failed."),
        ("over", {}, 401, "Authentication failed."),
        ("alice", {"X_Service_Token": "bad"}, 401, "Authentication failed."),
        ("alice", {"X_Project_ID": OTHER}, 403, "X-Project-ID is not the project of the token."),
        ("system", {"X_Project_ID": OTHER}, 403, "X-Project-ID is not the project of the token."),
        ("unscoped", {}, 403, "The token has no project. Use one that is scoped to a project."),
    ],
)
@pytest.mark.parametrize("before", [None, "bob"])
def test_a_failed_authentication_changes_nothing(
    client: Client, ended: list[str], before: str | None, token: str | None, headers: Any, status: int, error: str
) -> None:
    if before is not None:
        authenticate(client, before)
    identity = client.session.identity
    reply = authenticate(client, token, **headers)
    assert (reply["headers"]["status"], reply["body"]["error"]) == (status, error)
    assert client.session.identity == identity
    assert not ended
    if before is not None:
        assert client.call("whoami", X_Project_ID=OTHER)["body"]["user"] == "bob"


def test_a_token_that_keystone_cannot_judge_is_503_and_may_be_sent_again(client: Client, tokens: Tokens) -> None:
    tokens.is_away = True
    reply = authenticate(client, "alice")
    assert reply["headers"] == {"status": 503, "Retry-After": 1}
    assert list(reply["body"]) == ["error"]
    assert client.session.identity is None
    tokens.is_away = False
    assert authenticate(client, "alice")["headers"] == {"status": 200}


def test_a_newer_token_replaces_the_old_one_and_its_end(client: Client, ended: list[str], clock: FakeClock) -> None:
    authenticate(client, "alice")
    authenticate(client, "renewed")
    assert client.session.expires == RENEWED.expires
    assert not ended
    clock.now = ALICE.expires + 1
    assert client.status("whoami") == 200


def test_with_another_project_the_subscriptions_of_the_connection_end(client: Client, ended: list[str]) -> None:
    authenticate(client, "alice")
    authenticate(client, "bob")
    assert ended == ["c1"]
    assert client.call("whoami", X_Project_ID=OTHER)["body"]["project"] == OTHER
    assert client.status("whoami") == 403


def test_a_request_that_was_read_for_another_token_is_not_carried_out(client: Client) -> None:
    authenticate(client, "alice")
    early = client.session.read(pack(Format.JSON, {"action": "whoami", "headers": HEADERS}))
    authenticate(client, "bob")
    assert client.session.answer(early).status == 403


def test_if_subscriptions_cannot_be_ended_the_old_token_stays_in_force(parts: Parts, tokens: Tokens) -> None:
    def fail(connection: str) -> None:
        raise KeystoneUnavailable

    client = Client(with_tokens(parts, tokens), sessions=Sessions(ACTIONS, end_subscriptions=fail))
    authenticate(client, "alice")
    assert authenticate(client, "bob")["headers"]["status"] == 503
    assert client.session.identity == ALICE


def test_a_system_token_is_for_actions_of_the_deployment(client: Client) -> None:
    assert authenticate(client, "system")["headers"] == {"status": 200}
    assert client.call("health", X_Project_ID=None)["body"] == {"project": "", "user": "root", "roles": ["admin"]}
    assert client.status("health", X_Project_ID=PROJECT) == 403
    assert client.status("whoami", X_Project_ID=None) == 403
    assert client.status("whoami") == 403


@pytest.mark.parametrize("end", ["expired", "revoked"])
def test_once_the_token_has_ended_the_connection_is_closed(
    client: Client, clock: FakeClock, tokens: Tokens, end: str
) -> None:
    authenticate(client, "alice")
    assert client.session.revalidate()
    if end == "expired":
        clock.now = ALICE.expires
    else:
        del tokens.known["alice"]
    assert not client.session.revalidate()
    session = client.session
    reply = session.answer(session.read(pack(Format.JSON, {"action": "whoami", "headers": HEADERS})))
    assert (reply.status, reply.close) == (401, (4003, "Authentication expired."))
    assert session.identity is None
    assert client.status("whoami") == 403


def test_while_keystone_is_away_no_connection_is_closed_or_waits(client: Client, tokens: Tokens) -> None:
    authenticate(client, "alice")
    tokens.is_away = True
    asked = len(tokens.asked)
    assert client.status("whoami") == 200
    assert len(tokens.asked) == asked
    with pytest.raises(KeystoneUnavailable):
        client.session.revalidate()
    assert client.status("whoami") == 200


def test_while_keystone_is_away_tokens_with_access_rules_get_503(client: Client, tokens: Tokens) -> None:
    tokens.rules["limited"] = ("GET", "/v2/queues")
    authenticate(client, "limited")
    tokens.is_away = True
    assert client.status("whoami") == 503
    tokens.is_away = False
    assert client.status("whoami") == 200


def test_the_last_answer_of_keystone_decides_the_roles(client: Client, tokens: Tokens) -> None:
    authenticate(client, "alice")
    tokens.known["alice"] = dataclasses.replace(ALICE, roles=frozenset({"admin", "member"}))
    assert client.session.revalidate()
    assert client.call("whoami")["body"]["roles"] == ["admin", "member"]


def test_a_token_that_was_replaced_meanwhile_has_no_effect(client: Client, tokens: Tokens) -> None:
    """``revalidate`` runs beside requests, and Keystone may take its time."""
    authenticate(client, "alice")
    answer = tokens.validate

    def answer_late(token: str, **request: Any) -> Identity:
        tokens.validate = answer  # type: ignore[method-assign]
        authenticate(client, "bob")
        return answer(token, **request)

    del tokens.known["alice"]
    tokens.validate = answer_late  # type: ignore[method-assign]
    assert client.session.revalidate()
    assert client.session.identity == BOB
    assert client.call("whoami", X_Project_ID=OTHER)["body"]["user"] == "bob"
    del tokens.known["bob"]
    assert not client.session.revalidate()


def test_access_rules_are_checked_with_the_method_and_path_of_the_action(client: Client, tokens: Tokens) -> None:
    tokens.rules["limited"] = ("GET", "/v2/queues/q/messages/m")
    assert authenticate(client, "limited")["headers"] == {"status": 200}
    assert client.status("message_get", {"queue_name": "q", "message_id": "m"}) == 200
    for body in ({"queue_name": "q2", "message_id": "m"}, {"queue_name": "q", "message_id": "m/../m"}):
        reply = client.call("message_get", body)
        assert (reply["headers"]["status"], reply["body"]["error"]) == (
            401,
            "The application credential is not for this action.",
        )
    assert tokens.asked[-2]["path"] == "/v2/queues/q/messages/m%2F..%2Fm"
    # The token is still that of the connection.
    assert client.session.revalidate()
    assert client.status("message_get", {"queue_name": "q", "message_id": "m"}) == 200


def test_a_service_token_is_asked_about_with_the_token_it_came_with_only(client: Client, tokens: Tokens) -> None:
    assert authenticate(client, "alice", X_Service_Token="good")["headers"] == {"status": 200}
    assert client.status("whoami") == 200
    assert [asked["service_token"] for asked in tokens.asked] == ["good", None]


def test_after_a_reload_the_new_keystone_is_asked(client: Client, parts: Parts) -> None:
    authenticate(client, "alice")
    newer = Tokens({})
    client.session.use(with_tokens(parts, newer))
    assert not client.session.revalidate()


def test_no_token_is_logged_or_shown(client: Client, tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens.known["s3cret"] = ALICE
    authenticate(client, "s3cret")
    tokens.is_away = True
    authenticate(client, "s3cret")
    client.call("whoami", X_Auth_Token="s3cret")
    session: Session = client.session
    request = session.read(
        pack(Format.JSON, {"action": "authenticate", "headers": {**HEADERS, "X-Auth-Token": "s3cret"}})
    )
    assert request.token == "s3cret"
    assert "s3cret" not in caplog.text + repr(session) + repr(vars(session)) + repr(request)
