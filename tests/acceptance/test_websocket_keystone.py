# SPDX-License-Identifier: Apache-2.0
"""``zaqar-websocket`` with a real Keystone: who is admitted, for how long, and requests while Keystone is away."""

from __future__ import annotations

import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests import servers
from tests.acceptance.callers import remake_token
from tests.acceptance.server import Server, free_port, wait_until
from tests.keystone import PASSWORD, Keystone
from tests.websocket import JSON, MSGPACK, SECONDS, Format, Reply, WebSocket
from zaqar.transport.websocket.actions import ACTIONS

SECRET_KEY = "a key of more than thirty-two characters"
CLIENT_ID = "3381af92-2b9e-11e3-b191-71861300734c"
TOKEN_CACHE_SECONDS = 2
TOKEN_SECONDS = 3600
"""The life of Keystone's tokens."""

ROUNDED_SECONDS = 2
"""Keystone rounds down to whole seconds twice: when it makes a token, and when it says when the token expires."""

READ_AGAIN = "The configuration and the policy have been read again."

NOT_AUTHENTICATED = 4401
EXPIRED = 4003

_CONFIG = f"""\
[DEFAULT]
admin_mode = True
debug = True
[signed_url]
secret_key = {SECRET_KEY}
[notification]
webhook_allowed_networks = 192.0.2.0/24
[keystone_authtoken]
token_cache_time = {TOKEN_CACHE_SECONDS}
http_connect_timeout = 1
[drivers:transport:websocket]
authentication_timeout = 60
"""

STALLS = (2.0, 10.0, 50.0)
"""Lengths of a time-out that has to be longer than this machine may stand still. The shortest one is tried first."""


class Service:
    """The process, and connections to it. ``secrets`` are all texts that were sent to it and that no log may show."""

    def __init__(self, keystone: Keystone, server: Server, folder: Path) -> None:
        self.keystone = keystone
        self.server = server
        self.folder = folder
        self.url = f"ws://{server.host}:{server.port}"
        self.secrets = {SECRET_KEY, PASSWORD}
        self.project = keystone.id_of("project", "demo")

    def token(self, user: str = "member", project: str = "demo", **scope: Any) -> str:
        token = self.keystone.token(user, project, **scope)
        self.secrets.add(token)
        return token

    def connect(self, form: Format = JSON, *, project: str | None = None) -> WebSocket:
        return WebSocket(self.url, project=self.project if project is None else project, form=form)

    def login(self, token: str, form: Format = JSON, *, project: str | None = None) -> WebSocket:
        """A connection that has authenticated."""
        client = self.connect(form, project=project)
        reply = client.authenticate(token)
        assert (reply.status, reply.body) == (200, {"message": "Authentified."}), reply
        return client

    def log(self) -> str:
        return self.server.log.read_text()

    def set_authentication_timeout(self, seconds: float) -> None:
        """Set the time-out for connections that are opened from now on."""
        config, seen = self.folder / "zaqar.conf", self.log().count(READ_AGAIN)
        config.write_text(
            re.sub(r"authentication_timeout = .*", f"authentication_timeout = {seconds}", config.read_text())
        )
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count(READ_AGAIN) > seen)


@contextmanager
def serving(keystone: Keystone, folder: Path) -> Iterator[Service]:
    port, log = free_port(), folder / "log"
    (folder / "zaqar.conf").write_text(keystone.options() + _CONFIG)
    (folder / "policy.yaml").write_text("{}")
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-m", "zaqar.cmd.websocket", "--bind", f"127.0.0.1:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--config-file", str(folder / "zaqar.conf")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )
    server = Server("127.0.0.1", port, folder / "state", log, process)
    service = Service(keystone, server, folder)

    def is_open() -> bool:
        assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
        try:
            service.connect().close()
        except (OSError, WebSocketException):
            return False
        return True

    try:
        wait_until(is_open)
        yield service
    finally:
        server.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a Keystone for this module, which kills it."""
    keystone = servers.own(Keystone)
    try:
        with serving(keystone, tmp_path_factory.mktemp("service")) as service:
            yield service
            text = service.log()
            assert "authenticate" in text or "WebSocket" in text, "nothing was logged"
            assert [secret for secret in service.secrets if secret in text] == []
    finally:
        keystone.stop()


# -- authenticate ------------------------------------------------------------------------------------------------------

PROJECT, NOBODY, UNKNOWN = "<project>", "somebody-else", "nobody-knows-it"
CLIENT = {"Client-ID": CLIENT_ID}
OWN, FOREIGN = {**CLIENT, "X-Project-ID": PROJECT}, {**CLIENT, "X-Project-ID": NOBODY}
POST = {"queue_name": "wk", "messages": [{"body": 1, "ttl": 60}]}

RECORDED: list[tuple[str, str, Mapping[str, Any], Any, int, Any, Mapping[str, Any]]] = [
    ("not authenticated", "queue_list", OWN, None, 403, {"error": str}, OWN),
    ("bad token", "authenticate", {**OWN, "X-Auth-Token": UNKNOWN}, None, 401, {"error": str}, {}),
    ("without a token", "authenticate", OWN, None, 400, {"error": str}, OWN),
    ("authenticate", "authenticate", {**OWN, "X-Auth-Token": "<token>"}, None, 200, {"message": "Authentified."}, {}),
    ("own project", "queue_create", OWN, {"queue_name": "wk"}, 201, "Queue wk created.", OWN),
    ("another", "queue_list", FOREIGN, None, 403, {"error": str}, FOREIGN),
    ("no project", "queue_list", CLIENT, None, 400, {"error": str}, CLIENT),
    ("post", "message_post", OWN, POST, 201, {"message_ids": [str]}, OWN),
    ("delete", "queue_delete", OWN, {"queue_name": "wk"}, 204, "Queue wk removed.", OWN),
]  # fmt: skip
"""Recorded from OpenStack Zaqar: headers and body that were sent; status, body and the headers in ``request``."""


def shape(value: Any, like: Any) -> Any:
    """``value`` with each text replaced by ``str`` if ``like`` has ``str`` there."""
    if isinstance(like, dict) and isinstance(value, dict):
        return {name: shape(each, like.get(name)) for name, each in value.items()}
    if isinstance(like, list) and isinstance(value, list):
        return [shape(each, like[0]) for each in value]
    return str if like is str and isinstance(value, str) else value


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_recorded_frames_have_the_recorded_replies(service: Service, form: Format) -> None:
    token = service.token()

    def real(headers: Mapping[str, Any]) -> dict[str, Any]:
        values = {PROJECT: service.project, "<token>": token}
        return {name: values.get(value, value) for name, value in headers.items()}

    with service.connect(form, project="") as client:
        for name, action, headers, body, status, answer, repeated in RECORDED:
            reply = client.request(action, body, real(headers))
            assert (reply.status, shape(reply.body, answer)) == (status, answer), name
            assert reply.request == {"action": action, "body": body or {}, "api": "v2", "headers": real(repeated)}, name


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_no_action_is_served_before_authentication(service: Service, form: Format) -> None:
    with service.connect(form) as client:
        for action in ACTIONS.values():
            if action.name != "authenticate":
                reply = client.request(action.name, dict(action.example))
                assert (reply.status, reply.error) == (403, "Not authentified."), action.name


@pytest.mark.parametrize(
    "token", [5, None, [], {}, True, "", "  ", "x\ny", "\u0416", pytest.param("x" * 60_000, id="long"), UNKNOWN]
)
def test_an_invalid_token_does_not_authenticate(service: Service, token: Any) -> None:
    with service.connect() as client:
        reply = client.request("authenticate", headers={"X-Auth-Token": token})
        assert reply.status in (400, 401), reply
        assert client.request("queue_list").status == 403


def test_headers_do_not_change_the_identity_of_a_caller(service: Service) -> None:
    member, other = service.token(), service.keystone.id_of("project", "other")
    claims = {"X-Roles": "admin", "X-User-Id": "admin", "X-Is-Admin-Project": "True", "X-Service-Roles": "admin"}
    with service.login(member) as client:
        assert client.request("queue_create", {"queue_name": "mine"}, claims).status == 201
        assert client.request("check_node_health", headers=claims).status == 403
        for elsewhere in (other, "admin", service.project.upper(), f"{service.project},{other}"):
            reply = client.request("queue_list", headers={**claims, "X-Project-ID": elsewhere})
            assert reply.status in (400, 403), reply
        # python-zaqarclient sends two spellings of it.
        both = client.request("queue_list", headers={"X-Project-Id": other})
        assert both.status in (400, 403), both
    with service.login(service.token("stranger", "other"), project=other) as stranger:
        assert stranger.request("queue_list").body == {"queues": []}
    with service.connect() as client:
        reply = client.request("authenticate", headers={"X-Auth-Token": member, "X-Project-ID": other})
        assert reply.status == 403, reply
        assert client.request("queue_list").status == 403


def test_a_token_without_a_project_is_refused_except_for_the_system(service: Service) -> None:
    with service.connect() as client:
        for scope in ({"unscoped": True}, {"domain": "Default"}):
            user = "member" if "unscoped" in scope else "admin"
            reply = client.authenticate(service.token(user, **scope))
            assert reply.status == 403, reply
            assert client.request("queue_list").status == 403
    with service.login(service.token("admin", system=True), project="") as client:
        assert client.request("check_node_health").status == 200
        assert client.request("queue_list").status == 403


def test_tokens_of_a_trust_and_of_application_credentials_authenticate(service: Service) -> None:
    keystone = service.keystone
    with service.login(service.token("zaqar", trust=keystone.trust())) as client:
        assert client.request("queue_create", {"queue_name": "of-a-trust"}).status == 201
    credential = keystone.token_of(keystone.application_credential())
    service.secrets.add(credential)
    with service.login(credential) as client:
        assert client.request("queue_delete", {"queue_name": "of-a-trust"}).status == 204
    rules = [
        ("POST", "/v2/queues/open/messages"),
        ("GET", "/v2/queues/open/messages/{id}"),
        ("GET", "/v2/topics/*/messages"),
        ("PUT", "/v2/topics/open"),
    ]
    limited = keystone.token_of(keystone.application_credential(access_rules=rules))
    service.secrets.add(limited)
    posted = {"messages": [{"body": 1, "ttl": 60}]}
    with service.login(limited) as client:
        made = client.request("message_post", {"queue_name": "open", **posted})
        assert made.status == 201
        (one,) = made.body["message_ids"]
        for action, body, status in [
            ("message_get", {"queue_name": "open", "message_id": one}, 200),
            ("message_list", {"topic_name": "any"}, 200),
            ("topic_create", {"topic_name": "open"}, 201),
            ("message_post", {"queue_name": "shut", **posted}, 401),
            ("message_post", {"topic_name": "open", **posted}, 401),
            ("message_list", {"queue_name": "open"}, 401),
            ("message_get_many", {"queue_name": "open", "message_ids": [one]}, 401),
            ("message_delete", {"queue_name": "open", "message_id": one}, 401),
            ("queue_create", {"queue_name": "open"}, 401),
            ("queue_list", None, 401),
            ("subscription_create", {"queue_name": "open", "ttl": 600}, 401),
            ("get_home_doc", None, 401),
        ]:
            reply = client.request(action, body)
            assert reply.status == status, (action, body, reply)


# -- repetition, and the end -------------------------------------------------------------------------------------------


def aged(service: Service, token: str, *, left: float) -> str:
    """The same token as if it expired in so many seconds."""
    older = remake_token(service.keystone, token, age=TOKEN_SECONDS - left)
    service.secrets.add(older)
    return older


def test_another_token_replaces_the_first(service: Service) -> None:
    keystone, other = service.keystone, service.keystone.id_of("project", "other")
    user = keystone.new_user("demo", "member")
    keystone.grant("admin", user, "other")
    with service.login(service.token(user)) as client:
        assert client.request("queue_create", {"queue_name": "first"}).status == 201
        assert client.request("subscription_create", {"queue_name": "first", "ttl": 600}).status == 201
        assert client.request("check_node_health").status == 403
        # An invalid token, and a token for another project than the frame names, leave the session as it is.
        assert client.authenticate(UNKNOWN).status == 401
        assert client.authenticate(service.token(user, "other")).status == 403
        assert client.request("authenticate").status == 400
        assert "first" in str(client.request("queue_list").body)
        assert client.authenticate(service.token(user, "other"), project=other).status == 200
        assert "first" not in str(client.request("queue_list").body)
        assert client.request("check_node_health").status == 200
        with service.login(service.token(user)) as same:
            # This connection gets no more messages of the first project. Its subscriptions are removed in batches.
            wait_until(lambda: same.request("subscription_list", {"queue_name": "first"}).body["subscriptions"] == [])
        assert client.request("queue_list", headers={"X-Project-ID": service.project}).status == 403


def test_a_connection_is_closed_when_its_token_expires(service: Service) -> None:
    for stall in STALLS:
        left = stall + ROUNDED_SECONDS
        ends = time.time() + left
        tokens, newer = [service.token() for _ in range(3)], service.token()
        with service.connect() as first, service.connect(MSGPACK) as second, service.connect() as third:
            clients, statuses = (first, second, third), []
            with suppress(ConnectionClosed):
                for client, token in zip(clients, tokens, strict=True):
                    statuses.append(client.authenticate(aged(service, token, left=left)).status)
                statuses.append(second.authenticate(newer).status)
                # A failed attempt does not extend the time.
                statuses.append(third.authenticate(UNKNOWN).status)
            if time.time() > ends - ROUNDED_SECONDS:
                continue
            assert statuses == [200, 200, 200, 200, 401]
            for client in (first, third):
                assert client.closed(seconds=left + SECONDS) == (EXPIRED, "Authentication expired.")
            assert time.time() >= ends - ROUNDED_SECONDS
            assert second.request("queue_list").status == 200
            return
    pytest.fail("this machine stood still for too long")


def test_a_connection_loses_the_rights_that_its_token_loses(service: Service) -> None:
    keystone, revoked = service.keystone, service.token()
    disabled, promoted = keystone.new_user("demo"), keystone.new_user("demo")
    with (
        service.login(revoked) as first,
        service.login(service.token(disabled)) as second,
        service.login(service.token(promoted)) as third,
        service.login(service.token()) as other,
    ):
        assert third.request("check_node_health").status == 403
        keystone.revoke(revoked)
        keystone.set_enabled(disabled, False)
        keystone.grant("admin", promoted)
        assert first.closed() == (EXPIRED, "Authentication expired.")
        assert second.closed() == (EXPIRED, "Authentication expired.")
        wait_until(lambda: third.request("check_node_health").status == 200)
        assert other.request("queue_list").status == 200
        with service.connect() as again:
            assert again.authenticate(revoked).status == 401
        keystone.withdraw("admin", promoted)
        wait_until(lambda: third.request("check_node_health").status == 403)
        assert third.request("queue_list").status == 200
        keystone.withdraw("member", promoted)
        assert third.closed() == (EXPIRED, "Authentication expired.")


@pytest.fixture
def usual_timeout(service: Service) -> Iterator[None]:
    yield
    service.set_authentication_timeout(60)


@pytest.mark.usefixtures("usual_timeout")
def test_a_client_that_does_not_authenticate_is_disconnected(service: Service) -> None:
    signed, token = signed_headers(service, "guests", methods=["GET"]), service.token()
    forged = {**signed, "URL-Signature": "0" * 64}
    listed = {"queue_name": "guests"}
    for stall in STALLS:
        service.set_authentication_timeout(stall)
        began = time.monotonic()
        with ExitStack() as stack:
            guest, member, silent, refused, forger = (stack.enter_context(service.connect()) for _ in range(5))
            statuses = []
            with suppress(ConnectionClosed):
                statuses.append(guest.request("message_list", listed, signed).status)
                statuses.append(member.authenticate(token).status)
                statuses.append(forger.request("message_list", listed, forged).status)
                statuses.append(refused.authenticate(UNKNOWN).status)
                statuses.append(refused.request("queue_list").status)
            if time.monotonic() - began > stall:
                continue
            assert statuses == [200, 200, 403, 401, 403]
            for client in (silent, refused, forger):
                assert client.closed(seconds=stall + SECONDS)[0] == NOT_AUTHENTICATED
            # The time-out of these two for authentication would have ended earlier.
            assert guest.request("message_list", listed, signed).status == 200
            assert member.request("queue_list").status == 200
            return
    pytest.fail("this machine stood still for too long")


# -- signed frames -----------------------------------------------------------------------------------------------------


def signed_headers(service: Service, queue: str, **wanted: Any) -> dict[str, Any]:
    """The headers that a member got from ``queue_share``."""
    with service.login(service.token()) as member:
        shared = member.request("queue_share", {"queue_name": queue, **wanted})
    assert shared.status == 200, shared
    service.secrets.add(shared.body["signature"])
    made = {f"URL-{name.capitalize()}": shared.body[name] for name in ("signature", "paths", "methods", "expires")}
    return {**made, "X-Project-ID": shared.body["project"]}


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_signed_headers_work_without_authentication(service: Service, form: Format) -> None:
    """Without an account, mixed with frames that are not signed, and with lists or text."""
    signed = signed_headers(service, "guests", methods=["GET", "POST"])
    text = {name: ",".join(value) if isinstance(value, list) else value for name, value in signed.items()}
    posted = {"queue_name": "guests", "messages": [{"body": 1, "ttl": 60}]}
    with service.connect(form, project="") as guest:
        for headers in (signed, text):
            assert guest.request("message_post", posted, headers).status == 201
            listed = guest.request("message_list", {"queue_name": "guests", "echo": True}, headers)
            assert listed.status == 200
            assert set(listed.request["headers"]) <= {
                "Client-ID",
                "X-Project-ID",
                "URL-Paths",
                "URL-Methods",
                "URL-Expires",
            }
            for action, body in [
                ("message_post", {**posted, "queue_name": "others"}),
                ("message_list", {"topic_name": "guests"}),
                ("message_delete_many", {"queue_name": "guests", "pop": 1}),
                ("claim_create", {"queue_name": "guests", "ttl": 60, "grace": 60}),
                ("queue_get", {"queue_name": "guests"}),
                ("queue_share", {"queue_name": "guests"}),
            ]:
                assert guest.request(action, body, headers).status == 403, action
        assert guest.request("message_post", posted, {"X-Project-ID": service.project}).status == 403
        assert guest.request("authenticate", headers={**signed, "X-Auth-Token": UNKNOWN}).status in (401, 403)
    other = service.keystone.id_of("project", "other")
    with service.login(service.token("admin"), form) as administrator:
        # A signature gives no identity, even on a connection that has authenticated.
        assert administrator.request("check_node_health", headers=signed).status == 403
        assert (
            administrator.request("message_list", {"queue_name": "guests"}, {**signed, "X-Project-ID": other}).status
            == 403
        )


def test_signed_headers_can_subscribe_the_connection(service: Service) -> None:
    """With signed paths to the subscriptions of the queue. A subscription with a trust is refused."""
    text = signed_headers(service, "events", paths=["subscriptions"], methods=["GET", "POST", "DELETE"])
    with service.connect(project="") as guest:
        made = guest.request("subscription_create", {"queue_name": "events", "ttl": 600}, text)
        assert made.status == 201, made
        listed = guest.request("subscription_list", {"queue_name": "events"}, text)
        assert [each["id"] for each in listed.body["subscriptions"]] == [made.body["subscription_id"]]
        trust = {"queue_name": "events", "subscriber": "trust+http://192.0.2.1/x", "ttl": 600}
        assert guest.request("subscription_create", trust, text).status in (400, 403)
        assert guest.request("subscription_create", {"queue_name": "other", "ttl": 600}, text).status == 403


def test_signatures_of_a_replaced_key_are_valid_while_it_is_configured(service: Service) -> None:
    """Signatures of the old key are valid while it is configured, on open connections too."""
    old, body = signed_headers(service, "guests"), {"queue_name": "guests"}
    config = service.folder / "zaqar.conf"
    before = config.read_text()
    replaced = f"secret_key = {SECRET_KEY[::-1]}\nprevious_secret_keys = {SECRET_KEY}"
    service.secrets.add(SECRET_KEY[::-1])
    with service.connect(project="") as guest:
        assert guest.request("message_list", body, old).status == 200
        config.write_text(before.replace(f"secret_key = {SECRET_KEY}", replaced))
        service.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: signed_headers(service, "guests", expires=old["URL-Expires"]) != old)
        assert guest.request("message_list", body, old).status == 200
        config.write_text(before.replace(f"secret_key = {SECRET_KEY}", replaced.partition("\n")[0]))
        service.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: guest.request("message_list", body, old).status == 403)
        assert guest.request("message_list", body, signed_headers(service, "guests")).status == 200


# -- the policy --------------------------------------------------------------------------------------------------------


def test_a_changed_policy_is_read_at_a_reload(service: Service) -> None:
    policy, post = service.folder / "policy.yaml", {"queue_name": "ruled", "messages": [{"body": 1, "ttl": 60}]}
    reader = service.login(service.token("reader"))
    member = service.login(service.token("member"))
    with reader, member:
        for client in (reader, member):
            assert client.request("message_post", post).status == 201

        def reload(text: str) -> None:
            policy.write_text(text)
            service.server.process.send_signal(signal.SIGHUP)

        reload('"messages:create": "role:member"\n')
        wait_until(lambda: reader.request("message_post", post).status == 403)
        assert member.request("message_post", post).status == 201
        assert reader.request("message_list", {"queue_name": "ruled"}).status == 200
        seen = service.log().count("SIGHUP")
        reload('"messages:create": "role:nobody" and\n  broken: [')
        wait_until(lambda: service.log().count("SIGHUP") > seen)
        assert member.request("message_post", post).status == 201
        assert reader.request("message_post", post).status == 403
        reload("{}")
        wait_until(lambda: reader.request("message_post", post).status == 201)


# -- Keystone is away --------------------------------------------------------------------------------------------------

KNOWN, NEW, BETWEEN = "known", "new", "between"
SILENT_SECONDS = 3.5
"""Longer than the time-out of a question to Keystone."""


MOST_SECONDS, MOST_TIMES = 1.0, 4.0
"""The time limit of a request while Keystone is away: seconds on a quiet machine, or so many times the time before."""


class Seen(NamedTuple):
    """A request. ``phase`` is that in which it began and ended, if it is the same."""

    kind: str
    began: str
    phase: str
    status: int
    seconds: float


class Load:
    """Connections that have authenticated, beside callers that try unknown tokens, until it is closed."""

    def __init__(self, service: Service, token: str, *, known: int, new: int) -> None:
        self._service = service
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self.phase = BETWEEN
        self.seen: list[Seen] = []
        self.errors: list[BaseException] = []
        targets = [lambda: self._work(token)] * known + [self._try] * new
        self._threads = [threading.Thread(target=self._run, args=(target,)) for target in targets]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, target: Any) -> None:
        try:
            target()
        except BaseException as exc:
            self.errors.append(exc)
            raise

    def _work(self, token: str) -> None:
        with self._service.login(token) as client:
            while not self._is_over.wait(0.005):
                self._note(KNOWN, lambda: client.request("queue_list"))

    def _try(self) -> None:
        while not self._is_over.wait(0.02):
            with self._service.connect() as client:
                self._note(NEW, lambda: client.authenticate(f"{UNKNOWN}-{next(self._numbers)}"))

    def _note(self, kind: str, ask: Any) -> None:
        phase, began = self.phase, time.monotonic()
        reply: Reply = ask()
        seconds = time.monotonic() - began
        self.seen.append(Seen(kind, phase, phase if phase == self.phase else BETWEEN, reply.status, seconds))

    def during(self, phase: str, seconds: float, *, until: int) -> None:
        """Go on for so many seconds, and until a new caller got this status."""
        self.phase = phase
        time.sleep(seconds)
        wait_until(lambda: until in self.statuses(NEW, phase))
        self.phase = BETWEEN

    def statuses(self, kind: str, phase: str) -> Counter[int]:
        """The statuses of requests that began and ended in this phase."""
        return Counter(seen.status for seen in list(self.seen) if (seen.kind, seen.phase) == (kind, phase))

    def median(self, phase: str) -> float:
        """The median seconds of requests on authenticated connections that began in this phase."""
        return statistics.median(seen.seconds for seen in self.seen if (seen.kind, seen.began) == (KNOWN, phase))


def test_keystone_is_killed_paused_and_started_under_load(service: Service) -> None:
    """More callers wait for a silent Keystone than there are threads that may ask it."""
    keystone, token = service.keystone, service.token()
    # A token that was refused while Keystone was away is as unknown as before.
    returned, awake = service.token("reader"), service.token("reader")

    def gets_in(token: str) -> bool:
        # On a new connection, because one that does not authenticate in time is closed.
        with service.connect() as client:
            return client.authenticate(token).status == 200

    with Load(service, token, known=3, new=20) as load:
        load.during("healthy", 0.5, until=401)
        keystone.kill()
        load.during("dead", 1.0, until=503)
        keystone.start()
        wait_until(lambda: gets_in(returned), seconds=60, every=0.2)
        load.during("back", 0.25, until=401)
        keystone.signal(signal.SIGSTOP)
        try:
            load.during("silent", SILENT_SECONDS, until=503)
        finally:
            keystone.signal(signal.SIGCONT)
        wait_until(lambda: gets_in(awake), seconds=60, every=0.2)
        load.during("well", 0.25, until=401)
    phases = ("healthy", "dead", "back", "silent", "well", BETWEEN)
    report = {(phase, kind): load.statuses(kind, phase) for phase in phases for kind in (KNOWN, NEW)}
    print(report, {phase: load.median(phase) for phase in phases}, load.errors, file=sys.stderr)
    assert load.errors == []
    for (_, kind), statuses in report.items():
        assert set(statuses) <= ({200} if kind == KNOWN else {401, 503}), report
    for phase in ("dead", "silent"):
        # Authenticated connections do not wait for callers that try to authenticate.
        assert load.median(phase) < max(MOST_SECONDS, MOST_TIMES * load.median("healthy")), report
