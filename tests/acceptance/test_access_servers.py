# SPDX-License-Identifier: Apache-2.0
"""Each HTTP server parses headers and targets in its own way: no variant admits a caller, and no secret is logged.

The servers log at debug level, and so do the libraries that talk to Keystone.
"""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests import servers
from tests.acceptance import raw_http
from tests.acceptance.server import Server
from tests.acceptance.test_keystone import COMMANDS, serving
from tests.keystone import PASSWORD, Keystone

CLIENT = b"Client-ID: 3381af92-2b9e-11e3-b191-71861300734c"
SIGNING_KEY = f"signing-{uuid.uuid4().hex}"
OLD_KEY = f"old-{uuid.uuid4().hex}"
ENCRYPTION_KEY = f"encryption-{uuid.uuid4().hex}"
BODY = f"body-{uuid.uuid4().hex}"
OPTIONS = f"""
[DEFAULT]
debug = true
default_log_levels = amqp=WARN
[signed_url]
secret_key = {SIGNING_KEY}
previous_secret_keys = {OLD_KEY}
[transport]
message_encryption_key = {ENCRYPTION_KEY}
"""
QUEUE = "/v2/queues/secret"

# -- variants of valid tokens and of open targets: (target, headers) ---------------------------------------------------

TARGETS = (
    "//", "///", "/./", "/../", "/.", "/..", "/%2e", "/%2f", "/%2F%2F", "/;x", "/;/v2/queues", "/%00", "/%0d%0aX:x",
    "//v2/queues", "/./v2/queues", "/../v2/queues", "/%2e%2e/v2/queues", "/%2fv2/queues", "/v2//queues", "/v2%2fqueues",
    "/confirm/", "/confirm/..", "/confirm/../v2/queues", "/confirm/..%2fv2/queues", "/confirm%2f..%2fv2%2fqueues",
    "/confirm%2f", "/confirm;x", "/confirm;/../v2/queues", "/confirm%23/../v2/queues", "/confirm%3f/../v2/queues",
    "/v2/queues", "/v2/queues?/confirm", "/v2/queues#/", "/v2/queues%23/", "/v2/queues/%2e%2e/pools", "/v2/pools/", "*",
    "http://localhost/v2/queues", "http://localhost//v2/queues", "http://localhost/confirm/../v2/queues",
    "http://a@localhost/v2/queues", "http:///v2/queues", "https://localhost/v2/queues", "v2/queues", "\\v2\\queues",
)  # fmt: skip
ROOT_OF_UWSGI = {"/./", "/../", "/.", "/..", "/confirm/.."}
"""uWSGI removes the dots from targets. From these it makes ``/``, which is open."""

METHODS = ("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND", "get", "BREW")
DISGUISES = (
    "SCRIPT_NAME: /v2", "SCRIPT_NAME: /v2/queues", "Script-Name: /v2/queues", "PATH_INFO: /", "Path-Info: /",
    "PATH_INFO: /confirm", "REQUEST_METHOD: OPTIONS", "REQUEST_URI: /", "RAW_URI: /", "X-HTTP-Method-Override: OPTIONS",
    "X-Original-URL: /confirm", "X-Rewrite-URL: /", "X-Forwarded-Prefix: /v2/queues", "X-Forwarded-Path: /confirm",
    "keystone.token_info: {}", "zaqar.caller: admin", "HTTP_X_ROLES: admin", "REMOTE_USER: admin", "UWSGI_FILE: x",
    "Connection: X-Auth-Token", "Connection: Upgrade\r\nUpgrade: websocket", "Origin: http://a\r\nX-Requested-With: b",
    "Origin: http://a\r\nAccess-Control-Request-Method: GET", "Expect: 100-continue", "Transfer-Encoding: chunked",
)  # fmt: skip
CLAIMS = (
    "X-Roles: admin", "X_Roles: admin", "X-ROLES: admin", "x_role: admin", "X-Project-ID: {demo}",
    "X_Project_Id: {demo}", "X-Tenant-ID: {demo}", "X_Tenant: {demo}", "X-User-Id: {admin}", "X_User_Id: {admin}",
    "X_Identity_Status: Confirmed", "X-Identity-Status: Confirmed", "X_Is_Admin_Project: True",
    "OpenStack-System-Scope: all", "X_Service_Roles: admin",
    "OpenStack_System_Scope: all", "X-Service-Roles: service\r\nX-Service-Identity-Status: Confirmed",
    "X-Roles: member\r\nX-Roles: admin", "X-Project-ID: {demo}\r\nX-Project-ID: {other}",
)  # fmt: skip


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    """A Keystone for this module, which kills it at the end."""
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


@dataclass
class Target:
    name: str
    server: Server
    keystone: Keystone
    tokens: dict[str, str]

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        sent = {"Client-ID": str(uuid.UUID(int=1)), "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def talk(self, target: str, *headers: str, method: str = "GET") -> raw_http.Conversation:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        return raw_http.talk(self.server, "\r\n".join(lines).encode("latin-1") + b"\r\n" + CLIENT + b"\r\n\r\n")

    def statuses(self, target: str, *headers: str, method: str = "GET") -> list[int]:
        """The statuses of the answers; none if the server closes the connection without one."""
        # raw_http.talk insists on a complete answer. Those to HEAD have a length and no body.
        with suppress(AssertionError, ValueError):
            conversation = self.talk(target, *headers, method=method)
            assert BODY.encode() not in b"".join(reply.body for reply in conversation.replies)
            return conversation.statuses
        return []


@pytest.fixture(scope="module")
def targets(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    tokens = {user: keystone.token(user) for user in ("member", "reader", "admin")}
    tokens |= {"stranger": keystone.token("stranger", "other"), "service": keystone.token("aodh", "service")}
    with ExitStack() as stack:
        found = {}
        for name in COMMANDS:
            server = stack.enter_context(serving(name, keystone, tmp_path_factory.mktemp(name), OPTIONS))
            found[name] = target = Target(name, server, keystone, tokens)
            post = {"messages": [{"body": BODY, "ttl": 3600}]}
            for queue in (QUEUE, "/v2/queues/encrypted"):
                created = {"_enable_encrypt_messages": True} if queue.endswith("encrypted") else {}
                member = {"X-Auth-Token": tokens["member"]}
                assert target.ask("PUT", queue, created, member)[0] == 201
                assert target.ask("POST", f"{queue}/messages", post, member)[0] == 201
        yield found


@pytest.fixture(params=COMMANDS)
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    return targets[request.param]


NOT_SERVED = {400, 401, 404, 405, 431, 501, 505}
"""Statuses of answers that serve nothing."""


def refused(statuses: list[int]) -> bool:
    """Whether a request got nothing but refusals, or no answer."""
    return set(statuses) <= NOT_SERVED


def test_no_target_similar_to_an_open_one_is_served(target: Target) -> None:
    assert target.statuses("/") == [300]
    for wanted in TARGETS:
        for headers in ((), ("X-Auth-Token: unknown",), ("URL-Signature: " + "0" * 64,)):
            statuses = target.statuses(wanted, *headers)
            is_root = target.name == "uwsgi" and wanted in ROOT_OF_UWSGI and not "".join(headers).startswith("URL")
            assert statuses == [300] if is_root else refused(statuses), (wanted, headers, statuses)
    for method in METHODS:
        for wanted in (QUEUE, f"{QUEUE}/messages?echo=true"):
            assert refused(target.statuses(wanted, method=method)), (method, wanted)


def test_no_header_disguises_a_request(target: Target) -> None:
    stranger = f"X-Auth-Token: {target.tokens['stranger']}"
    for disguise in DISGUISES:
        assert refused(target.statuses(f"{QUEUE}/messages?echo=true", disguise)), disguise
        # Either the caller's own, empty queue of that name, or a refusal.
        statuses = target.statuses(f"{QUEUE}/messages?echo=true", disguise, stranger)
        assert refused(statuses) or statuses == [200] or statuses == [100, 200], (disguise, statuses)


def test_no_header_changes_the_identity_of_a_caller(target: Target) -> None:
    ids = {name: target.keystone.id_of("project", name) for name in ("demo", "other")}
    ids["admin"] = target.keystone.id_of("user", "admin")
    for claim in CLAIMS:
        header = claim.format(**ids)
        assert target.statuses(f"{QUEUE}/messages?echo=true", header) == [401], claim
        assert target.statuses("/v2/health", header) == [401], claim
        for user in ("reader", "stranger"):
            token = f"X-Auth-Token: {target.tokens[user]}"
            # Before the header with the token and after it.
            for headers in ((header, token), (token, header)):
                assert target.statuses("/v2/health", *headers) == [403], claim
        stranger = f"X-Auth-Token: {target.tokens['stranger']}"
        assert target.statuses(f"{QUEUE}/messages?echo=true", header, stranger) == [200], claim


SPELLINGS = """
# headers                             gunicorn granian uwsgi
X-Auth-Token: G                       200      200     200
x-auth-token:G                        200      200     200
X-Auth-Token:   G                     200      200     200
X-Auth-Token : G                      400      400     401
X-Auth-Token: G|X-Auth-Token: B       401      401     401
X-Auth-Token: B|X-Auth-Token: G       401      401     401
X-Auth-Token: G|X-Auth-Token: G       401      401     401
X-Auth-Token: |X-Auth-Token: G        401      401     401
X_Auth_Token: G                       401      200     200
X_Auth_Token: B|X-Auth-Token: G       200      200     401
X-Auth-Token: G|X_Auth_Token: B       200      401     401
X-Storage-Token: G                    200      200     200
X-Auth-Token: B|X-Storage-Token: G    401      401     401
X-Auth-Token: |X-Storage-Token: G     401      401     401
X-Auth-Token: G|X-Service-Token: B    401      401     401
X-Auth-Token: G|X_Service_Token: B    200      401     401
X-Service-Token: G                    401      401     401
Authorization: Bearer G               401      401     401
"""
"""G is a token that is valid, B is one that is not. gunicorn drops headers with an underscore."""


def test_each_spelling_of_the_token_header_gets_the_status_in_the_table(target: Target) -> None:
    lines = [line for line in SPELLINGS.strip().splitlines() if not line.startswith("#")]
    for line in lines:
        text, *statuses = line[:38].strip(), *line[38:].split()
        headers = text.replace("G", target.tokens["member"]) if "Bearer" not in text else text
        headers = headers.replace(": B", ": unknown")
        expected = int(statuses[list(COMMANDS).index(target.name)])
        assert target.talk("/v2/queues", *headers.split("|")).statuses == [expected], text


def test_a_token_is_valid_for_its_own_request_only(target: Target) -> None:
    """The next request on the connection needs a token of its own."""
    request = b"GET /v2/queues HTTP/1.1\r\nHost: a\r\n" + CLIENT + b"\r\n"
    token = f"X-Auth-Token: {target.tokens['member']}\r\n".encode()
    replies = raw_http.talk(target.server, request + token + b"\r\n" + request + b"\r\n").replies
    assert [reply.status for reply in replies] in ([200, 401], [200])
    assert b"secret" in replies[0].body


SIGNED_HEADERS = ("URL-Signature", "URL-Paths", "URL-Methods", "URL-Expires", "X-Project-ID")


def test_a_signature_header_that_comes_twice_is_refused(target: Target) -> None:
    status, made = target.ask("POST", f"{QUEUE}/share", {}, {"X-Auth-Token": target.tokens["member"]})
    assert status == 200
    values = (made["signature"], ",".join(made["paths"]), ",".join(made["methods"]), made["expires"], made["project"])
    headers = [f"{name}: {value}" for name, value in zip(SIGNED_HEADERS, values, strict=True)]
    path = f"{QUEUE}/messages?echo=true"
    assert raw_http.talk(target.server, _raw(path, headers)).statuses == [200]
    for position, header in enumerate(headers):
        for other in (header, header.partition(":")[0] + ": 0", header.partition(":")[0] + ":"):
            for doubled in ([*headers, other], [other, *headers]):
                assert target.statuses(path, *doubled) == [404], (position, other)
    for wanted in (
        f"/{QUEUE}/messages", f"{QUEUE}//messages", f"{QUEUE}/messages/", f"{QUEUE}/messages/..", f"{QUEUE}/%6dessages",
        f"{QUEUE}/messages/../../encrypted/messages", f"{QUEUE}/messages%2f..%2f..%2fencrypted%2fmessages",
        "/v2/queues/encrypted/messages", f"{QUEUE}/messages;x", f"{QUEUE}/messages%00", QUEUE, "/v2/queues",
    ):  # fmt: skip
        statuses = target.statuses(wanted, *headers)
        # granian does not report the original spelling of a path.
        assert refused(statuses) or (target.name == "granian" and "%6d" in wanted), (wanted, statuses)


def _raw(path: str, headers: list[str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n" + CLIENT + b"\r\n\r\n"


# -- the log; it is the last test, as it ends Keystone -----------------------------------------------------------------


def test_no_secret_is_logged(targets: dict[str, Target], keystone: Keystone) -> None:
    secrets = {
        "the password of the service": PASSWORD,
        "the key of signatures": SIGNING_KEY,
        "an old key of signatures": OLD_KEY,
        "the key of encryption": ENCRYPTION_KEY,
        "a body": BODY,
        "an unknown token": f"unknown-{uuid.uuid4().hex}",
        "a revoked token": keystone.token(),
        "a token of a trust": keystone.token("zaqar", trust=keystone.trust()),
        "a token with rules": keystone.token_of(keystone.application_credential(access_rules=[("GET", "/v2/x")])),
        "a token that comes too late": keystone.token(),
    }
    keystone.revoke(secrets["a revoked token"])
    for target in targets.values():
        member = {"X-Auth-Token": target.tokens["member"]}
        secrets |= {f"the token of {user}": token for user, token in target.tokens.items()}
        for what, token in secrets.items():
            if "token" in what and what != "a token that comes too late":
                target.ask("GET", "/v2/queues", headers={"X-Auth-Token": token})
                target.ask("GET", "/v2/queues", headers={**member, "X-Service-Token": token})
                # The header is misspelt, so the service does not look for a token in it.
                target.statuses("/v2/queues", f"X-Auth-Token {token}")
                target.statuses("/v2/queues", "X-Auth-Token: a", f" {token}")
                target.statuses(f"/v2/\x01{token}")
        status, made = target.ask("POST", f"{QUEUE}/share", {}, member)
        assert status == 200
        secrets[f"a signature at {target.name}"] = made["signature"]
        signed = {"URL-Signature": made["signature"], "URL-Paths": made["paths"][0], "X-Project-ID": made["project"]}
        assert target.ask("GET", f"{QUEUE}/messages", headers=signed)[0] == 404
        expires = {**signed, "URL-Methods": "GET", "URL-Expires": made["expires"]}
        assert target.ask("GET", f"{QUEUE}/messages", headers=expires)[0] == 200
        hook = {"subscriber": "trust+https://192.0.2.1/hook?key=of-the-hook", "ttl": 600}
        assert target.ask("POST", f"{QUEUE}/subscriptions", hook, member)[0] in (201, 400)
    keystone.kill()
    for target in targets.values():
        late = {"X-Auth-Token": secrets["a token that comes too late"]}
        assert target.ask("GET", "/v2/queues", headers=late)[0] == 503
        assert target.ask("GET", "/v2/health", headers={"X-Auth-Token": target.tokens["admin"]})[0] == 200
        log = target.server.log.read_text()
        assert "DEBUG" in log
        for what, secret in secrets.items():
            lines = [line for line in log.splitlines() if secret in line]
            assert not lines, f"{target.name} logs {what}: {lines[0]}"
