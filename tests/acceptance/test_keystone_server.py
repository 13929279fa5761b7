# SPDX-License-Identifier: Apache-2.0
"""The Keystone of the tests behaves as the tests of access assume."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import servers
from tests.keystone import Keystone, KeystoneError
from tests.virtualenvs import KEYSTONE, made_once

VIRTUALENVS = (KEYSTONE,)


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    """A Keystone for this module, which changes accounts."""
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


def roles(keystone: Keystone, token: str) -> set[str]:
    return {role["name"] for role in keystone.inspect(token)["roles"]}


def is_valid(keystone: Keystone, token: str) -> bool:
    try:
        keystone.inspect(token)
    except KeystoneError as refused:
        if refused.status == 404:
            return False
        raise
    return True


@pytest.mark.parametrize(
    ("user", "project", "expected"),
    [
        ("admin", "demo", {"admin", "manager", "member", "reader"}),
        ("manager", "demo", {"manager", "member", "reader"}),
        ("member", "demo", {"member", "reader"}),
        ("reader", "demo", {"reader"}),
        ("stranger", "other", {"member", "reader"}),
        ("zaqar", "service", {"admin", "manager", "member", "reader", "service"}),
        ("aodh", "service", {"service"}),
    ],
)
def test_accounts_have_their_roles(keystone: Keystone, user: str, project: str, expected: set[str]) -> None:
    token = keystone.token(user, project)
    assert roles(keystone, token) == expected
    assert keystone.inspect(token)["project"] == {
        "id": keystone.id_of("project", project),
        "name": project,
        "domain": {"id": "default", "name": "Default"},
    }


def test_a_user_gets_no_token_for_a_foreign_project(keystone: Keystone) -> None:
    with pytest.raises(KeystoneError, match="401"):
        keystone.token("stranger", "demo")


def test_tokens_can_have_other_scopes_than_a_project(keystone: Keystone) -> None:
    assert keystone.inspect(keystone.token("admin", domain="Default"))["domain"]["id"] == "default"
    assert keystone.inspect(keystone.token("admin", system=True))["system"] == {"all": True}
    assert not {"project", "domain", "system"} & set(keystone.inspect(keystone.token("nobody", unscoped=True)))


def test_a_token_ends_when_it_is_revoked_or_its_user_disabled(keystone: Keystone) -> None:
    user = keystone.new_user("demo")
    revoked, other = keystone.token(user), keystone.token(user)
    keystone.revoke(revoked)
    assert not is_valid(keystone, revoked)
    assert is_valid(keystone, other)
    keystone.set_enabled(user, False)
    assert not is_valid(keystone, other)
    keystone.set_enabled(user, True)
    assert is_valid(keystone, keystone.token(user))


def test_a_role_is_granted_and_withdrawn(keystone: Keystone) -> None:
    project = keystone.new_project()
    user = keystone.new_user(project, "reader", "manager")
    keystone.withdraw("manager", user, project)
    assert roles(keystone, keystone.token(user, project)) == {"reader"}


def test_an_application_credential_carries_its_access_rules(keystone: Keystone) -> None:
    rules = [("GET", "/v2/queues"), ("POST", "/v2/queues/*/messages")]
    token = keystone.token_of(keystone.application_credential(access_rules=rules))
    found = keystone.inspect(token)["application_credential"]["access_rules"]
    assert [(rule["method"], rule["path"]) for rule in found] == rules
    assert {rule["service"] for rule in found} == {"messaging"}

    token = keystone.token_of(keystone.application_credential())
    assert "access_rules" not in keystone.inspect(token)["application_credential"]


def test_a_trust_gives_the_trustors_roles(keystone: Keystone) -> None:
    user = keystone.new_user("demo")
    trust = keystone.trust(user, expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert [found["id"] for found in keystone.trusts(user)] == [trust]
    token = keystone.inspect(keystone.token("zaqar", trust=trust))
    assert (token["user"]["name"], token["project"]["name"]) == (user, "demo")
    assert token["OS-TRUST:trust"]["trustee_user"]["id"] == keystone.id_of("user", "zaqar")


def test_the_catalogue_has_the_url_of_the_service(keystone: Keystone) -> None:
    def urls() -> dict[str, set[str]]:
        catalog = keystone.inspect(keystone.token())["catalog"]
        return {service["type"]: {endpoint["url"] for endpoint in service["endpoints"]} for service in catalog}

    keystone.options("127.0.0.1:8888")
    keystone.set_endpoint("ws://127.0.0.1:9000", "messaging-websocket")
    assert urls() == {
        "identity": {keystone.uri},
        "messaging": {"http://127.0.0.1:8888"},
        "messaging-websocket": {"ws://127.0.0.1:9000"},
    }


def test_keystone_restarts_after_a_kill_on_its_port_with_its_data() -> None:
    keystone = servers.own(Keystone)
    try:
        uri, token, user = keystone.uri, keystone.token(), keystone.new_user("demo")
        keystone.kill()
        with pytest.raises(ConnectionRefusedError):
            keystone.token()
        keystone.start()
        assert keystone.uri == uri
        assert is_valid(keystone, token)
        assert is_valid(keystone, keystone.token(user))
    finally:
        keystone.stop()


def test_keystone_is_silent_while_it_is_stopped(keystone: Keystone) -> None:
    keystone.signal(signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", keystone.program.port), timeout=0.3) as connection:
            connection.sendall(b"GET /v3 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(1)
    finally:
        keystone.signal(signal.SIGCONT)
    assert is_valid(keystone, keystone.token())


def test_the_life_of_tokens_can_be_set() -> None:
    keystone = servers.own(lambda: Keystone(token_seconds=2))
    try:
        token = keystone.token()
        deadline = time.monotonic() + 30
        while is_valid(keystone, token):
            assert time.monotonic() < deadline, "the token does not end"
            time.sleep(0.1)
    finally:
        keystone.stop()


def _note(folder: Path) -> None:
    with (folder / "calls").open("a") as calls:
        calls.write("once\n")
    time.sleep(0.3)


def _make(folder: Path) -> None:
    assert (made_once(folder, _note) / "calls").read_text() == "once\n"


def test_several_processes_make_a_cached_folder_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    processes = [fork.Process(target=_make, args=(tmp_path / "made",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    _make(tmp_path / "made")


def test_an_unfinished_cached_folder_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "calls").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "made", fail)
    _make(tmp_path / "made")
