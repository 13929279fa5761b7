# SPDX-License-Identifier: Apache-2.0
"""The options and rules of the library keep their meaning, and every error of Keystone becomes one exception."""

from __future__ import annotations

import importlib.util
import json
import re
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.clock import FakeClock
from tests.servers import free_port
from zaqar import conf
from zaqar.access.auth_token import AuthToken, _make_environ
from zaqar.access.keystone import TokenValidator, check_strategy
from zaqar.access.token_cache import key_of
from zaqar.errors import KeystoneUnavailable, StartupError, Unauthorized

ACCOUNT = """
[DEFAULT]
auth_strategy = keystone
[keystone_authtoken]
www_authenticate_uri = http://keystone.example/v3
auth_type = password
auth_url = http://127.0.0.1:{port}/v3
username = zaqar
password = not-a-secret-of-anybody
user_domain_name = Default
project_domain_name = Default
project_name = service
"""


def load(folder: Path, lines: str = "", *, port: int = 9) -> cfg.ConfigOpts:
    (folder / "zaqar.conf").write_text(ACCOUNT.format(port=port) + lines + "\n")
    return conf.load(default_config_files=[str(folder / "zaqar.conf")])


def started(folder: Path, lines: str = "", *, port: int = 9) -> TokenValidator:
    tokens = TokenValidator(load(folder, lines, port=port), FakeClock(time.time()))
    tokens.start()
    return tokens


def ask(tokens: TokenValidator, token: str | None, **changes: Any) -> Any:
    return tokens.validate(token, **{"method": "GET", "path": "/v2/queues", **changes})


# -- options -----------------------------------------------------------------------------------------------------------


def test_our_defaults_and_those_of_the_library(tmp_path: Path) -> None:
    options = load(tmp_path)
    AuthToken(options, FakeClock())
    group = options.keystone_authtoken
    assert (group.service_type, group.http_connect_timeout, group.http_request_max_retries) == ("messaging", 5, 1)
    assert (group.token_cache_time, group.interface, group.include_service_catalog) == (300, "internal", True)
    assert group.service_token_roles_required is True


def test_a_configuration_file_wins_over_our_defaults(tmp_path: Path) -> None:
    options = load(tmp_path, "service_type = queues\nhttp_connect_timeout = 9\nhttp_request_max_retries = 0")
    AuthToken(options, FakeClock())
    group = options.keystone_authtoken
    assert (group.service_type, group.http_connect_timeout, group.http_request_max_retries) == ("queues", 9, 0)


def test_the_file_on_the_page_of_the_documentation_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "keystone.rst").read_text()
    block = page.partition(".. code-block:: ini\n\n")[2]
    indented = re.match(r"(?: {6}.*\n|\n)+", block)
    assert indented is not None
    (tmp_path / "zaqar.conf").write_text(textwrap.dedent(indented[0]))
    options = conf.load(default_config_files=[str(tmp_path / "zaqar.conf")])
    check_strategy(options)
    assert AuthToken(options, FakeClock()).challenge == 'Keystone uri="http://keystone.example:5000/v3"'
    assert options.keystone_authtoken.project_name == "service"
    assert options.admin_mode is True


def test_options_of_a_section_of_another_name(tmp_path: Path) -> None:
    account = ACCOUNT.format(port=9).partition("auth_type")[2]
    lines = f"auth_section = account\n[account]\nauth_type {account}"
    (tmp_path / "zaqar.conf").write_text(f"[DEFAULT]\nauth_strategy = keystone\n[keystone_authtoken]\n{lines}")
    options = conf.load(default_config_files=[str(tmp_path / "zaqar.conf")])
    library = AuthToken(options, FakeClock())
    assert options.account.username == "zaqar"
    assert library.challenge == 'Keystone uri="http://127.0.0.1:9/v3"', "of auth_url, as nothing else is known"


@pytest.mark.parametrize("value", ["True", "False"])
def test_delay_auth_decision_has_no_effect(tmp_path: Path, value: str) -> None:
    tokens = started(tmp_path, f"delay_auth_decision = {value}")
    with pytest.raises(Unauthorized):
        ask(tokens, None)
    statuses: list[str] = []
    list(tokens._started(_make_environ("", None, "GET", "/"), lambda status, *_: statuses.append(status)))
    assert statuses == ["401 Unauthorized"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("auth_type =", ["[keystone_authtoken] auth_type"]),
        ("auth_type = passwort", ["[keystone_authtoken]", "passwort"]),
        ("auth_url =", ["[keystone_authtoken]", "auth_url"]),
        ("auth_section = account", ["[account] auth_type"]),
        ("token_cache_time = soon", ["[keystone_authtoken] token_cache_time", "soon"]),
        ("http_connect_timeout = 1s", ["[keystone_authtoken] http_connect_timeout"]),
        ("include_service_catalog = perhaps", ["[keystone_authtoken] include_service_catalog"]),
        ("password = $nothing", ["[keystone_authtoken] password"]),
        ("cafile = /nowhere/ca.pem", ["[keystone_authtoken] cafile", "/nowhere/ca.pem"]),
        ("memcache_security_strategy = MAC", ["[keystone_authtoken]", "memcache_secret_key"]),
        ("memcache_security_strategy = ROT13", ["[keystone_authtoken] memcache_security_strategy"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_option_stops_the_start_with_one_sentence(tmp_path: Path, lines: str, words: list[str]) -> None:
    tokens = TokenValidator(load(tmp_path, lines), FakeClock())
    with pytest.raises(StartupError) as caught:
        tokens.start()
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert "not-a-secret" not in str(caught.value)
    assert "nothing" not in str(caught.value), "which may be a part of a password"


@pytest.mark.parametrize(
    ("lines", "package"),
    [
        ("", "python-memcached"),
        ("memcache_use_advanced_pool = False\nmemcache_tls_enabled = True", "python-memcached"),
        ("memcache_tls_enabled = True", "python-binary-memcached"),
        ("memcache_sasl_enabled = True", "python-binary-memcached"),
    ],
)
def test_memcached_needs_its_client_at_the_start(tmp_path: Path, lines: str, package: str) -> None:
    assert importlib.util.find_spec("memcache") is None
    tokens = TokenValidator(load(tmp_path, f"memcached_servers = 127.0.0.1:11211\n{lines}"), FakeClock())
    with pytest.raises(StartupError, match=rf"\[keystone_authtoken\] memcached_servers: .* {package}"):
        tokens.start()


def test_the_library_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = load(tmp_path)
    check_strategy(options)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match=r"pip install zaqar\[keystone\]"):
        check_strategy(options)


def test_a_validator_that_was_not_started_accepts_no_token(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        ask(TokenValidator(load(tmp_path), FakeClock()), "token")


def test_a_second_start_does_nothing(tmp_path: Path) -> None:
    tokens = started(tmp_path)
    library = tokens._started
    tokens.start()
    assert tokens._started is library


# -- answers -----------------------------------------------------------------------------------------------------------


def test_the_library_refuses_with_the_same_answer(tmp_path: Path) -> None:
    tokens = started(tmp_path)
    answers: list[Any] = []
    body = b"".join(
        tokens._started(_make_environ("", None, "GET", "/"), lambda status, headers, *_: answers.append(headers))
    )
    with pytest.raises(Unauthorized) as caught:
        ask(tokens, "")
    assert dict(answers[0])["WWW-Authenticate"] == caught.value.challenge == 'Keystone uri="http://keystone.example/v3"'
    error = json.loads(body)["error"]
    assert error == {"code": caught.value.status, "title": caught.value.title, "message": str(caught.value)}


def test_a_keystone_that_refuses_connections_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = started(tmp_path, port=free_port())
    with pytest.raises(KeystoneUnavailable) as caught:
        ask(tokens, "token")
    assert caught.value.retry_after >= 1
    assert "127.0.0.1" not in str(caught.value)
    assert "127.0.0.1" in caplog.text
    with pytest.raises(KeystoneUnavailable):
        tokens.check()


class Answering(BaseHTTPRequestHandler):
    """A proxy before Keystone that answers all questions about tokens with one status."""

    status, message = 500, ""

    def do_GET(self) -> None:
        if self.path.endswith("/auth/tokens"):
            self._send(self.status, {"error": {"code": self.status, "title": "E", "message": self.message}})
        else:
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": self._url}]}
            self._send(200, {"version": version})

    def do_POST(self) -> None:
        endpoint = {"interface": "internal", "region": "R", "url": self._url}
        catalog = [{"type": "identity", "endpoints": [endpoint]}]
        times = {"issued_at": "2020-01-01T00:00:00.000000Z", "expires_at": "2999-01-01T00:00:00.000000Z"}
        self._send(201, {"token": {"methods": ["password"], "catalog": catalog, "user": {"id": "u"}, **times}})

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v3"

    def _send(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Subject-Token", "service")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


VALIDATE = "You are not authorized to perform the requested action: identity:validate_token."


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Header too large", Unauthorized),
        (403, "You are not authorized to perform the requested action.", Unauthorized),
        (404, "Could not recognize the token", Unauthorized),
        (413, "", Unauthorized),
        (431, "", Unauthorized),
        (500, "", False),
        (401, "", True),
        (403, VALIDATE, True),
        (429, "", True),
        (502, "", True),
        (503, "", True),
        (504, "", True),
    ],
)
def test_the_cause_of_an_error_of_keystone(tmp_path: Path, status: int, message: str, expected: Any) -> None:
    """An error is about the token, about this question, or about Keystone, which then counts as unavailable."""
    answering = type("Answering", (Answering,), {"status": status, "message": message})
    with ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        tokens = started(tmp_path, port=server.server_address[1])
        with pytest.raises((Unauthorized, KeystoneUnavailable)) as caught:
            ask(tokens, "token")
        server.shutdown()
    if isinstance(expected, bool):
        assert isinstance(caught.value, KeystoneUnavailable)
        assert caught.value.is_outage is expected
    else:
        assert isinstance(caught.value, expected)
    # A refused token is cached. After any other error Keystone is asked again.
    assert tokens._cache.was_rejected(key_of("token")) == (expected is Unauthorized)


def test_an_unexpected_exception_of_the_library_becomes_keystone_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = started(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError("memcached is gone")

    monkeypatch.setattr(tokens._started._token_cache, "get", fail)
    with pytest.raises(KeystoneUnavailable):
        ask(tokens, "token")
    assert "memcached is gone" in caplog.text
    assert "Traceback" in caplog.text


def test_the_check_in_the_background_logs_a_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = started(tmp_path, port=free_port())
    tokens._check_and_log()
    (record,) = [record for record in caplog.records if record.name == "zaqar.access.keystone"]
    assert "Keystone does not answer" in record.getMessage()
    assert "not-a-secret" not in caplog.text


def test_paths_are_bytes_to_the_library() -> None:
    assert _make_environ("t", None, "GET", "/v2/queues/\xe9\U0001f600")["PATH_INFO"] == (
        "/v2/queues/\xe9\U0001f600".encode().decode("latin-1")
    )
    assert _make_environ("t", None, "GET", "/\udce9")["PATH_INFO"] == "/\xe9"


def test_a_long_token_does_not_make_keystone_count_as_unavailable(tmp_path: Path) -> None:
    """A proxy before Keystone may drop the connection for a long token. That looks like an outage."""
    library = AuthToken(load(tmp_path, "http_request_max_retries = 0", port=free_port()), FakeClock(time.time()))
    for token, service_token, is_outage in (("x", None, True), ("x" * 1025, None, False), ("x", "x" * 1025, False)):
        with pytest.raises(KeystoneUnavailable) as failed:
            library.ask(token, service_token=service_token, method="GET", path="/v2/queues")
        assert failed.value.is_outage is is_outage


def test_keystone_is_not_asked_about_a_token_that_is_too_long(tmp_path: Path) -> None:
    tokens = started(tmp_path, port=free_port())
    for token, service_token in (("x" * 8193, None), ("x", "x" * 8193)):
        with pytest.raises(Unauthorized):
            ask(tokens, token, service_token=service_token)
