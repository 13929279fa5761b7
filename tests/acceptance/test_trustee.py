# SPDX-License-Identifier: Apache-2.0
"""The trustee interprets the answers of a real Keystone about trusts."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.acceptance.server import free_port
from tests.keystone import Keystone
from zaqar import conf as configuration
from zaqar.access.trust_answers import TrustGone, TrustRefused
from zaqar.access.trusts import Trustee, open_trustee
from zaqar.errors import Forbidden, KeystoneUnavailable


@pytest.fixture
def keystone() -> Keystone:
    shared: Keystone = servers.shared("keystone")
    return shared


def open_on(folder: Path, text: str) -> Trustee:
    path = folder / "zaqar.conf"
    path.write_text(text)
    trustee = open_trustee(configuration.load(["--config-file", str(path)]))
    assert trustee is not None
    return trustee


@pytest.fixture
def trustee(keystone: Keystone, tmp_path: Path) -> Trustee:
    return open_on(tmp_path, keystone.options())


def set_enabled(keystone: Keystone, project: str, enabled: bool) -> None:
    path = f"/projects/{keystone.id_of('project', project)}"
    keystone.request("PATCH", path, {"project": {"enabled": enabled}}, token=keystone.administrator())


def test_a_new_trust_gives_tokens_until_it_is_deleted(keystone: Keystone, trustee: Trustee) -> None:
    user = keystone.new_user()
    project, id_ = keystone.id_of("project", "demo"), keystone.id_of("user", user)
    end = time.time() + 1000
    made = trustee.create(keystone.token(user), project=project, expires=end)
    assert made.user_id == id_
    assert end <= made.expires < end + 2
    token = trustee.token_of(made.id)
    assert (token.project, token.user_id, token.trustor) == (project, id_, id_)
    assert time.time() < token.expires <= time.time() + 3600
    assert {role["name"] for role in keystone.inspect(token.value)["roles"]} == {"member", "reader"}
    for _ in range(2):
        trustee.delete(made.id)
        assert keystone.trusts(user) == []
    with pytest.raises(TrustGone):
        trustee.token_of(made.id)


def test_many_trusts_can_be_made_in_one_second(keystone: Keystone, trustee: Trustee) -> None:
    """Between two users Keystone accepts only one trust that ends at a given moment."""
    user = keystone.new_user()
    token, project = keystone.token(user), keystone.id_of("project", "demo")
    end = float(int(time.time()) + 1000)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: trustee.create(token, project=project, expires=end).id, range(12)))
    assert len(set(made)) == 12


def test_the_end_of_a_trust_is_limited_to_the_year_9999(keystone: Keystone, trustee: Trustee) -> None:
    made = trustee.create(keystone.token(), project=keystone.id_of("project", "demo"), expires=1e15)
    assert datetime.fromtimestamp(made.expires, UTC).year == 9999
    trustee.delete(made.id)


def test_a_caller_who_cannot_make_a_trust_is_told_why(keystone: Keystone, trustee: Trustee) -> None:
    project, owner = keystone.id_of("project", "demo"), keystone.new_user()
    of_trust = keystone.token("zaqar", trust=keystone.trust(owner))
    of_credential = keystone.token_of(keystone.application_credential(owner))
    revoked = keystone.token(owner)
    keystone.revoke(revoked)
    for token, sentence in (
        (of_trust, "delegation"),
        (of_credential, "delegation"),
        (revoked, "any more"),
        ("nonsense", "any more"),
        (keystone.token("stranger", "other"), "another project"),
        (keystone.token(unscoped=True), "another project"),
    ):
        with pytest.raises(Forbidden, match=sentence):
            trustee.create(token, project=project, expires=time.time() + 1000)


@pytest.mark.parametrize("cause", ["unknown", "deleted", "its user is deleted", "its project is deleted"])
def test_a_deleted_or_unknown_trust_is_gone(keystone: Keystone, trustee: Trustee, cause: str) -> None:
    project = keystone.new_project()
    user = keystone.new_user(project)
    trust = keystone.trust(user, project=project)
    trustee.token_of(trust)
    if cause == "unknown":
        trust = "0" * 32
    elif cause == "deleted":
        keystone.request("DELETE", f"/OS-TRUST/trusts/{trust}", token=keystone.token(user, project))
    else:
        kind, name = ("user", user) if "user" in cause else ("project", project)
        keystone.request("DELETE", f"/{kind}s/{keystone.id_of(kind, name)}", token=keystone.administrator())
    with pytest.raises(TrustGone):
        trustee.token_of(trust)
    trustee.delete(trust)


def test_an_expired_trust_is_gone(keystone: Keystone, trustee: Trustee) -> None:
    user = keystone.new_user()
    # On a busy machine a short trust may expire before its first use, so the test tries a longer one then.
    for seconds in (2, 10, 50):
        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        trust = keystone.trust(user, expires_at=ends)
        try:
            trustee.token_of(trust)
        except TrustGone:
            assert datetime.now(UTC) >= ends
        else:
            break
    else:
        pytest.fail("no trust lived long enough to be used")
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.1)
    with pytest.raises(TrustGone):
        trustee.token_of(trust)
    trustee.delete(trust)


@pytest.mark.parametrize("cause", ["its user is disabled", "a role is gone", "its project is disabled"])
def test_a_trust_works_again_after_its_trustor_is_enabled_again(
    keystone: Keystone, trustee: Trustee, cause: str
) -> None:
    project = keystone.new_project()
    user = keystone.new_user(project)
    trust = keystone.trust(user, project=project)
    if "user" in cause:
        keystone.set_enabled(user, False)
    elif "role" in cause:
        keystone.withdraw("member", user, project)
    else:
        set_enabled(keystone, project, False)
    for ask in (trustee.token_of, trustee.delete):
        with pytest.raises(TrustRefused):
            ask(trust)
    keystone.set_enabled(user, True)
    set_enabled(keystone, project, True)
    keystone.grant("member", user, project)
    assert trustee.token_of(trust).user_id == keystone.id_of("user", user)


def test_a_trust_to_another_trustee_is_refused(keystone: Keystone, trustee: Trustee) -> None:
    trust = keystone.trust(keystone.new_user(), "aodh")
    for ask in (trustee.token_of, trustee.delete):
        with pytest.raises(TrustRefused):
            ask(trust)


def test_the_token_of_a_trust_without_impersonation_is_of_the_trustee(keystone: Keystone, trustee: Trustee) -> None:
    user = keystone.new_user()
    token = trustee.token_of(keystone.trust(user, impersonation=False))
    assert token.trustor == keystone.id_of("user", user)
    assert token.user_id == keystone.id_of("user", "zaqar")


def test_a_wrong_password_of_the_service_does_not_end_a_trust(
    keystone: Keystone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = keystone.trust(keystone.new_user())
    mistaken = open_on(tmp_path, keystone.options() + "password = wrong\n")
    project = keystone.id_of("project", "demo")
    for call in (
        lambda: mistaken.token_of(trust),
        lambda: mistaken.delete(trust),
        lambda: mistaken.create(keystone.token(), project=project, expires=time.time() + 1000),
    ):
        with pytest.raises(KeystoneUnavailable):
            call()
    assert caplog.text.count("does not accept the service user") == 1, "frequent requests do not fill the log"
    assert "wrong" not in caplog.text


def test_a_wrong_password_is_logged_when_a_user_subscribes(
    keystone: Keystone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mistaken = open_on(tmp_path, keystone.options() + "password = wrong\n")
    with pytest.raises(KeystoneUnavailable):
        mistaken.create(keystone.token(), project=keystone.id_of("project", "demo"), expires=time.time() + 1000)
    assert "[trustee]: Keystone does not accept the service user." in caplog.messages


def test_a_changed_password_of_the_service_does_not_end_a_trust(keystone: Keystone, tmp_path: Path) -> None:
    """The trust also stays for a process of the service that still has a valid token of its own."""
    keystone_user = keystone.new_user("service", "service")
    trust = keystone.trust(keystone.new_user(), keystone_user)
    own = open_on(tmp_path, keystone.options() + f"username = {keystone_user}\n")
    own.token_of(trust)
    path = f"/users/{keystone.id_of('user', keystone_user)}"
    keystone.request("PATCH", path, {"user": {"password": "another"}}, token=keystone.administrator())
    with pytest.raises(KeystoneUnavailable):
        own.token_of(trust)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a Keystone that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v3"


@pytest.mark.parametrize("is_silent", [True, False])
def test_an_unreachable_keystone_is_an_error_that_can_be_retried(tmp_path: Path, silent: str, is_silent: bool) -> None:
    url = silent if is_silent else f"http://127.0.0.1:{free_port()}/v3"
    group = f"auth_type = password\nauth_url = {url}\nusername = zaqar\npassword = x\nuser_domain_id = default\n"
    trustee = open_on(tmp_path, f"[DEFAULT]\nauth_strategy = keystone\n[trustee]\ntimeout = 1\n{group}")
    calls: list[Any] = [
        lambda: trustee.token_of("0" * 32),
        lambda: trustee.delete("0" * 32),
        lambda: trustee.create("t", project="p", expires=1.0),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(KeystoneUnavailable):
            call()
    assert time.monotonic() - began < 20


def test_a_keystone_url_without_a_version_works(keystone: Keystone, tmp_path: Path) -> None:
    options = keystone.options().replace(keystone.uri, keystone.uri.removesuffix("/v3"))
    trust = keystone.trust(keystone.new_user())
    trustee = open_on(tmp_path, options)
    trustee.token_of(trust)
    trustee.delete(trust)
    with pytest.raises(TrustGone):
        trustee.token_of(trust)
