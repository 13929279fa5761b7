# SPDX-License-Identifier: Apache-2.0
"""Access to each action of the WebSocket API: one table, and callers of every kind, behind a real Keystone.

As in ``test_access.py`` the replies and the stored data have to be as the tables say. The sessions run in this process,
without a network. No reply may hold a token or a signature.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import falcon
import pytest

from tests import servers
from tests.acceptance.access import Service, Target
from tests.acceptance.callers import FORGERIES, SPOOFED, Callers
from tests.keystone import Keystone
from tests.websocket import JSON, MSGPACK, Format
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.session import Session
from zaqar.transport.wsgi.app import routes

ROOT = Path(__file__).parents[2]

TABLE = """
# action                           to      strict  own foreign signed for
authenticate                       anybody -       400 400 -
get_home_doc                       tenant  -       200 200 -
ping_node                          tenant  reader  204 204 -
get_limits                         tenant  reader  200 200 -
check_node_health                  admin   admin   200 200 -
queue_list                         tenant  reader  200 200 -
queue_get                  queue   tenant  reader  200 200 -
queue_create               queue   tenant  member  204 201 -
queue_update               queue   tenant  member  200 404 -
queue_delete               queue   tenant  manager 204 204 -
queue_get_stats            queue   tenant  reader  200 404 -
queue_purge                queue   tenant  manager 204 204 -
queue_share                queue   tenant  manager 200 200 -
topic_list                         tenant  reader  200 200 -
topic_get                  topic   tenant  reader  200 200 -
topic_create               topic   tenant  member  204 201 -
topic_update               topic   tenant  member  200 404 -
topic_delete               topic   tenant  manager 204 204 -
topic_get_stats            topic   tenant  reader  200 404 -
topic_purge                topic   tenant  manager 204 204 -
topic_share                topic   tenant  manager 200 200 -
message_list               queue   tenant  reader  200 200 messages
message_post               queue   tenant  member  201 201 messages
message_get                queue   tenant  reader  200 404 messages
message_get_many           queue   tenant  reader  200 200 messages
message_delete             queue   tenant  member  204 204 messages
message_delete_many        queue   tenant  member  200 200 messages
message_list               topic   tenant  reader  200 200 messages
message_post               topic   tenant  member  201 201 messages
message_get                topic   tenant  reader  200 404 messages
message_get_many           topic   tenant  reader  200 200 messages
message_delete             topic   tenant  member  204 204 messages
message_delete_many        topic   tenant  member  200 200 messages
stream_open                queue   tenant  reader  200 200 messages
stream_credit              queue   tenant  reader  204 204 messages
stream_close               queue   tenant  reader  204 204 messages
stream_open                topic   tenant  reader  200 200 messages
stream_credit              topic   tenant  reader  204 204 messages
stream_close               topic   tenant  reader  204 204 messages
claim_create               queue   tenant  member  201 204 claims
claim_get                  queue   tenant  reader  200 404 claims
claim_update               queue   tenant  member  204 404 claims
claim_delete               queue   tenant  member  204 204 claims
subscription_list          queue   tenant  reader  200 200 subscriptions
subscription_create        queue   tenant  member  201 201 subscriptions
subscription_get           queue   tenant  reader  200 404 subscriptions
subscription_update        queue   tenant  member  204 404 subscriptions
subscription_delete        queue   tenant  member  204 204 subscriptions
subscription_confirm       queue   tenant  member  204 404 subscriptions
subscription_rotate_secret queue   tenant  member  200 404 -
subscription_resend        queue   tenant  member  200 404 -
delivery_list              queue   tenant  reader  200 404 -
delivery_resend            queue   tenant  member  204 404 -
subscription_list          topic   tenant  reader  200 200 subscriptions
subscription_create        topic   tenant  member  201 201 subscriptions
subscription_get           topic   tenant  reader  200 404 subscriptions
subscription_update        topic   tenant  member  204 404 subscriptions
subscription_delete        topic   tenant  member  204 204 subscriptions
subscription_confirm       topic   tenant  member  204 404 subscriptions
subscription_rotate_secret topic   tenant  member  200 404 -
subscription_resend        topic   tenant  member  200 404 -
delivery_list              topic   tenant  reader  200 404 -
delivery_resend            topic   tenant  member  204 404 -
pool_list                          admin   admin   200 200 -
pool_get                           admin   admin   200 200 -
pool_create                        admin   admin   201 201 -
pool_update                        admin   admin   200 200 -
pool_delete                        admin   admin   204 204 -
flavor_list                        tenant+ reader  200 200 -
flavor_get                         tenant+ reader  200 200 -
flavor_create                      admin   admin   201 201 -
flavor_update                      admin   admin   200 200 -
flavor_delete                      admin   admin   204 204 -
"""
"""The rules of the policy, as for HTTP. The second column is the kind of resource in the body, if there is one.

``anybody`` needs no token; ``tenant`` needs one for a project, with any role; ``tenant+`` needs that, or one for the
whole deployment; ``admin`` needs the role admin, for a project or the whole deployment. ``strict`` is the role that
``policy-strict.yaml.sample`` requires. ``own`` is the status if the resource in the body exists in the caller's
project, and ``foreign`` the status if it exists in another project, which is the same as if it did not exist.
``signed for`` is the collection that a pre-signed URL has to name.
"""

CALLERS = """
# caller                    authenticate  served as
no token                    400           nobody
an empty token              400           nobody
blanks                      401           nobody
an unknown token            401           nobody
a foreign Keystone's token  401           nobody
a token in two headers      401           nobody
a token and a word          401           nobody
a token cut short           401           nobody
a token with a line feed    401           nobody
a token with a NUL          401           nobody
a long token                401           nobody
a token as a bearer's       401           nobody
a token in a cookie         400           nobody
an expired token            401           nobody
a revoked token             401           nobody
a disabled user             401           nobody
a service token alone       400           nobody
a bad service token         401           nobody
a user as a service         401           nobody
rules for other paths       200           limited
unscoped                    403           nobody
of a domain                 403           nobody
of the system               200           admin of the system
reader of the system        200           reader of the system
no role of ours             200           own
reader                      200           own
member                      200           own
manager                     200           own
admin                       200           own, admin
a trust                     200           own
an application credential   200           own
a service in between        200           own
as X-Storage-Token          200           own
with blanks around it       200           own
roles claimed by a reader   403           nobody
member elsewhere            200           foreign
a claim to be in demo       403           nobody
"""
"""The callers that try each action, the status of ``authenticate``, and the identity with which each is served."""


class Row(NamedTuple):
    action: str
    kind: str
    to: str
    strict: str
    own: int
    foreign: int
    signed: str

    @property
    def path(self) -> str:
        """The path of the same request over HTTP, with the names of a target."""
        path = ACTIONS[self.action].path.replace("_name}", "}").replace("_id}", "}")
        path = path.replace("{delivery}", "{id}")
        return path.replace("queues/{queue}", "topics/{topic}") if self.kind == "topic" else path

    @property
    def method(self) -> str:
        return ACTIONS[self.action].method


def _read_rows(table: str) -> list[Row]:
    rows = []
    for line in table.strip().splitlines():
        if not line.startswith("#"):
            name, kind = line[:27].strip(), line[27:35].strip()
            to, strict, own, foreign, signed = line[35:].split()
            rows.append(Row(name, kind, to, strict, int(own), int(foreign), signed))
    return rows


def _read_callers(table: str) -> Iterator[tuple[str, tuple[int, str]]]:
    for line in table.strip().splitlines():
        if not line.startswith("#"):
            yield line[:28].strip(), (int(line[28:42]), line[42:].strip())


ROWS = _read_rows(TABLE)
CALLED = dict(_read_callers(CALLERS))
SERVED = [row for row in ROWS if row.action != "authenticate"]

BODIES: Mapping[str, Mapping[str, Any]] = {
    "queue_update": {"patch": [{"op": "add", "path": "/metadata/colour", "value": "red"}]},
    "topic_update": {"patch": [{"op": "add", "path": "/metadata/colour", "value": "red"}]},
    "queue_purge": {"resource_types": ["messages", "subscriptions"]},
    "topic_purge": {"resource_types": ["messages", "subscriptions"]},
    "message_list": {"echo": True},
    "message_post": {"messages": [{"body": "intruder", "ttl": 300}]},
    "message_get": {"message_id": "{message}"},
    "message_get_many": {"message_ids": ["{message}"]},
    "message_delete": {"message_id": "{message}"},
    "message_delete_many": {"pop": 1},
    "stream_open": {"credit": 5},
    "stream_credit": {"credit": 5},
    "claim_get": {"claim_id": "{claim}"},
    "claim_update": {"claim_id": "{claim}", "ttl": 400, "grace": 400},
    "claim_delete": {"claim_id": "{claim}"},
    "subscription_create": {"subscriber": "http://192.0.2.66/intruder", "ttl": 600},
    "subscription_get": {"subscription_id": "{subscription}"},
    "subscription_update": {"subscription_id": "{subscription}", "ttl": 700},
    "subscription_delete": {"subscription_id": "{subscription}"},
    "subscription_confirm": {"subscription_id": "{subscription}", "confirmed": False},
    "subscription_rotate_secret": {"subscription_id": "{subscription}"},
    "subscription_resend": {"subscription_id": "{subscription}", "state": "dead"},
    "delivery_list": {"subscription_id": "{subscription}"},
    "delivery_resend": {"subscription_id": "{subscription}", "delivery_id": "{id}"},
    "pool_get": {"pool_name": "{pool}"},
    "pool_create": {"pool_name": "{pool}", "uri": "sqlite:///{folder}/{pool}.db", "weight": 0},
    "pool_update": {"pool_name": "{pool}", "weight": 0},
    "pool_delete": {"pool_name": "{pool}"},
    "flavor_get": {"flavor_name": "{flavor}"},
    "flavor_create": {"flavor_name": "{flavor}", "pool_list": ["second"]},
    "flavor_update": {"flavor_name": "{flavor}", "pool_list": ["second"]},
    "flavor_delete": {"flavor_name": "{flavor}"},
}
"""The other members of the body besides the name of the queue or topic, with the names of a target."""


def body_of(target: Target, row: Row) -> dict[str, Any]:
    """A complete and valid body."""
    body = {f"{row.kind}_name": "{" + row.kind + "}"} if row.kind else {}
    text = json.dumps({**body, **BODIES.get(row.action, {})})
    for name, value in {**target.names, "folder": str(target.folder)}.items():
        text = text.replace(f"{{{name}}}", value)
    named: dict[str, Any] = json.loads(text)
    return named


class Reply(NamedTuple):
    status: int
    body: Any
    text: str


class Connection:
    """A session and its frames, as a client sends them. Every other session speaks MessagePack."""

    _numbers = count()

    def __init__(self, service: Service, project: str | None, form: Format | None = None) -> None:
        self.session = Session(service.parts, connection=uuid.uuid4().hex)
        self.project = project
        self._form = form or (JSON, MSGPACK)[next(self._numbers) % 2]
        self._client = str(uuid.uuid4())

    def ask(self, action: str, body: Any = None, headers: Mapping[str, Any] | None = None) -> Reply:
        """Send a frame and return the reply. A header that is None is left out; X-Project-ID has a default."""
        if action == "stream_credit" and body is not None:
            # A connection can allow more messages only for a stream that it has. If the stream is refused, so is this.
            self.ask("stream_open", body, headers)
        given = {name.lower() for name in headers or {}}
        own = {"Client-ID": self._client, "X-Project-ID": self.project}
        named = {k: v for k, v in own.items() if k.lower() not in given} | dict(headers or {})
        frame: dict[str, Any] = {"action": action, "headers": {k: v for k, v in named.items() if v is not None}}
        if body is not None:
            frame["body"] = body
        reply = self.session.answer(self.session.read(self._form.encode(frame)))
        assert type(reply.frame) is self._form.kind
        document = self._form.decode(reply.frame)
        text = json.dumps(document, ensure_ascii=False)
        for name, value in named.items():
            if ("Token" in name or "Signature" in name) and isinstance(value, str) and len(value.strip()) > 8:
                assert value.strip() not in text, f"{action}: the reply shows {name}"
        assert document["headers"] == {"status": reply.status}
        return Reply(reply.status, document["body"], text)


@pytest.fixture(scope="module")
def keystone() -> Keystone:
    shared: Keystone = servers.shared("keystone")
    return shared


@pytest.fixture(scope="module")
def service(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(keystone, tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def targets(service: Service) -> dict[Row, Target]:
    """For callers that are refused: a target for each action."""
    by_path = {path: service.new_target(path) for path in {row.path for row in SERVED}}
    return {row: by_path[row.path] for row in SERVED}


@pytest.fixture(scope="module")
def callers(keystone: Keystone) -> dict[str, Mapping[str, str]]:
    """The headers with which each caller authenticates."""
    return Callers(keystone).headers()


def project_of(service: Service, caller: str) -> str | None:
    """The project that a caller names in X-Project-ID: its real project."""
    if CALLED[caller][1] == "foreign":
        return service.keystone.id_of("project", "other")
    has_none = "system" in CALLED[caller][1] or caller in ("unscoped", "of a domain")
    return None if has_none else service.project


def connect(service: Service, callers: Mapping[str, Mapping[str, str]], caller: str) -> Connection:
    """A connection on which this caller has authenticated, or has tried to."""
    connection = Connection(service, project_of(service, caller))
    reply = connection.ask("authenticate", headers=callers[caller])
    assert reply.status == CALLED[caller][0], (caller, reply)
    return connection


def expected(caller: str, row: Row) -> int:
    """The status that the tables say."""
    served_as = CALLED[caller][1]
    if served_as in ("nobody", "limited"):
        return 403 if served_as == "nobody" else 401
    if "system" in served_as:
        return row.own if row.to == "tenant+" or (row.to == "admin" and "admin" in served_as) else 403
    if row.to == "admin":
        return row.own if "admin" in served_as else 403
    return row.own if "own" in served_as or row.to == "tenant+" else row.foreign


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_the_table_has_every_action() -> None:
    found = set()
    for action in ACTIONS.values():
        kinds = [kind for kind in ("queue", "topic") if f"{kind}_name" in action.fields]
        found |= {(action.name, kind) for kind in kinds or [""]}
    # The session itself carries this action out.
    found.add(("authenticate", ""))
    assert {(row.action, row.kind) for row in ROWS} == found


def test_every_action_has_a_request_over_http(service: Service) -> None:
    """Signed URLs and access rules refer to that request, so it must be the one with the same effect."""
    served = {
        (method, template.replace("{delivery_id}", "{id}").replace("_name}", "}").replace("_id}", "}"))
        for template, resource in routes(service.parts).items()
        for method in falcon.HTTP_METHODS
        if hasattr(resource, f"on_{method.lower()}")
    }
    assert {(row.method, row.path) for row in SERVED} <= served
    # The remaining operations exist over HTTP only.
    assert served - {(row.method, row.path) for row in SERVED} <= {("HEAD", "/v2/ping")} | DOCUMENTS


DOCUMENTS = {("GET", "/"), ("GET", "/v2/openapi.json"), ("GET", "/v2/asyncapi.json")}


def test_the_table_has_every_caller(callers: Mapping[str, object]) -> None:
    assert set(CALLED) == set(callers)


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_no_action_is_served_before_authentication(service: Service, targets: dict[Row, Target], form: Format) -> None:
    with service.unchanged():
        for project in (service.project, "anything"):
            connection = Connection(service, project, form)
            for row in SERVED:
                reply = connection.ask(row.action, body_of(targets[row], row))
                assert (reply.status, reply.body["error"]) == (403, "Not authentified."), (row, reply)


@pytest.mark.parametrize("caller", CALLED)
def test_every_action_answers_each_caller_as_the_table_says(
    service: Service, targets: dict[Row, Target], callers: dict[str, Mapping[str, str]], caller: str
) -> None:
    connection = connect(service, callers, caller)
    refused = [row for row in SERVED if expected(caller, row) in (401, 403)]
    with service.unchanged():
        for row in refused:
            reply = connection.ask(row.action, body_of(targets[row], row))
            check(reply, expected(caller, row), caller, row)
            assert targets[row].text not in reply.text, row
    admitted = [(row, targets[row]) for row in SERVED if row not in refused and row.method == "GET"]
    if caller in WRITE or "own" not in CALLED[caller][1]:
        admitted = [(row, service.new_target(row.path)) for row in SERVED if row not in refused]
    before = service.dump()
    for row, target in admitted:
        reply = connection.ask(row.action, body_of(target, row))
        check(reply, expected(caller, row), caller, row)
        if CALLED[caller][1] == "foreign":
            assert target.text not in reply.text, row
        elif row.action in SHOW_THE_TEXT:
            assert target.text in reply.text, row
    if CALLED[caller][1] == "foreign":
        after = service.dump()
        assert before <= after, f"changed or removed: {sorted(before - after)}"
        made = [each for each in after - before if service.project in each or any(s.text in each for _, s in admitted)]
        assert made == []


WRITE = ("no role of ours", "member", "admin")
"""The callers in the project whose writes are checked too."""

SHOW_THE_TEXT = ("queue_get", "topic_get", "message_list", "message_get", "message_get_many", "claim_create")
SHOW_THE_TEXT += ("message_delete_many", "subscription_list", "subscription_get")
"""Actions whose reply shows a text of the target."""


def check(reply: Reply, status: int, caller: str, row: Row) -> None:
    assert reply.status == status, (caller, row, reply)
    if status >= 400 and row.action not in ("queue_get_stats", "topic_get_stats"):
        assert isinstance(reply.body["error"], str), (caller, row, reply)
        assert reply.body["error"], (caller, row, reply)


@pytest.mark.parametrize("name", SPOOFED)
def test_a_header_does_not_change_the_identity_of_a_caller(
    service: Service, targets: dict[Row, Target], callers: dict[str, Mapping[str, str]], name: str
) -> None:
    """In every frame, X-Auth-Token alone identifies the caller."""
    ids = {"admin": service.keystone.id_of("user", "admin"), "demo": service.project}
    header = {name: SPOOFED[name].replace("{admin}", ids["admin"]).replace("{demo}", ids["demo"])}
    nobody, elsewhere = Connection(service, service.project), connect(service, callers, "member elsewhere")
    reader = connect(service, callers, "reader")
    with service.unchanged():
        assert nobody.ask("authenticate", headers=header).status == 400
        for row in SERVED:
            body = body_of(targets[row], row)
            assert nobody.ask(row.action, body, header).status == 403, (name, row)
            status = expected("member elsewhere", row)
            if status >= 400 or row.method == "GET":
                # The test above shows that the other requests are served.
                reply = elsewhere.ask(row.action, body, header)
                is_project = name.lower() == "x-project-id"
                assert reply.status == (status if not is_project else 403), (name, row, reply)
                assert targets[row].text not in reply.text, row
            if row.to == "admin":
                assert reader.ask(row.action, body, header).status == 403, (name, row)


# -- the strict policy ------------------------------------------------------------------------------------------------

RANKS = ("-", "no role of ours", "reader", "member", "manager", "admin")


@pytest.fixture(scope="module")
def strict_service(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    lines = f"[oslo_policy]\npolicy_file = {ROOT / 'etc' / 'policy-strict.yaml.sample'}\n"
    service = Service(keystone, tmp_path_factory.mktemp("strict"), lines)
    yield service
    service.close()


@pytest.mark.parametrize("caller", RANKS[1:])
def test_the_strict_policy_refuses_callers_below_the_role_in_the_table(
    strict_service: Service, callers: dict[str, Mapping[str, str]], caller: str
) -> None:
    service, connection = strict_service, connect(strict_service, callers, caller)
    refused = [row for row in SERVED if RANKS.index(row.strict) > RANKS.index(caller)]
    assert refused or caller == "admin"
    targets = {row: service.new_target(row.path) for row in refused}
    with service.unchanged():
        for row in refused:
            reply = connection.ask(row.action, body_of(targets[row], row))
            check(reply, 403, caller, row)
            assert targets[row].text not in reply.text, row
    for row in SERVED:
        # The role that a rule names, and the highest role.
        if caller == "admin" or row.strict == caller:
            reply = connection.ask(row.action, body_of(service.new_target(row.path), row))
            check(reply, row.own, caller, row)


# -- EXTRA-SPEC -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["messagecode:anything", "messagecode", "unknown:anything", "", ":", "x" * 5000])
def test_extra_spec_does_not_admit_a_refused_caller(
    service: Service, targets: dict[Row, Target], callers: dict[str, Mapping[str, str]], value: str
) -> None:
    """The header is an additional check: an accepted value changes nothing, and a refused one refuses every action."""
    is_accepted, header = value.startswith("messagecode"), {"EXTRA-SPEC": value}
    with service.unchanged():
        for caller in ("an unknown token", "reader", "member elsewhere"):
            connection = connect(service, callers, caller)
            for row in SERVED:
                status = expected(caller, row)
                if status == 403 or row.method == "GET":
                    reply = connection.ask(row.action, body_of(targets[row], row), header)
                    allowed = {status} if is_accepted else {400, 403} if status == 403 else {400}
                    assert reply.status in allowed, (caller, row, reply)


# -- signatures -------------------------------------------------------------------------------------------------------

COLLECTIONS = [("queue", "messages"), ("queue", "claims"), ("queue", "subscriptions")]
COLLECTIONS += [("topic", "messages"), ("topic", "subscriptions")]
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
SIGNED_BY = ("HTTP", "WebSocket")


def share(service: Service, kind: str, name: str, paths: list[str], methods: list[str], by: str) -> dict[str, Any]:
    """The headers of a pre-signed URL, as an administrator in ``demo`` makes it over one of the transports."""
    wanted = {"paths": paths, "methods": methods}
    if by == "HTTP":
        answer = service.ask("POST", f"/v2/{kind}s/{name}/share", wanted)
        assert answer.status_code == 200, answer.text
        made = answer.json
    else:
        connection = Connection(service, service.project)
        assert connection.ask("authenticate", headers={"X-Auth-Token": service.admin}).status == 200
        reply = connection.ask(f"{kind}_share", {f"{kind}_name": name, **wanted})
        assert reply.status == 200, reply
        made = reply.body
    return {
        "URL-Signature": made["signature"],
        "URL-Expires": made["expires"],
        "URL-Methods": made["methods"],
        "URL-Paths": made["paths"],
        "X-Project-ID": made["project"],
    }


def as_text(made: Mapping[str, Any]) -> dict[str, str]:
    """The headers in the form of HTTP: lists joined by commas."""
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in made.items()}


def opens(row: Row, kind: str, collection: str) -> bool:
    return row.signed == collection and row.kind == kind


def check_refused(reply: Reply, row: Row, case: object = "") -> None:
    """Check that it is the one answer to all signatures that are not valid."""
    assert (reply.status, reply.body["error"]) == (403, "The signature does not open this."), (case, row, reply)


@pytest.mark.parametrize("by", SIGNED_BY)
@pytest.mark.parametrize(("kind", "collection"), COLLECTIONS)
@pytest.mark.parametrize("beside", ["no token", "admin"])
def test_a_signature_opens_its_collection_and_nothing_else(
    service: Service, callers: dict[str, Mapping[str, str]], kind: str, collection: str, beside: str, by: str
) -> None:
    """With all methods. It makes no difference who has authenticated on the connection."""
    connection = connect(service, callers, beside)
    everything = "".join(row.path for row in SERVED if row.kind == kind)
    target = service.new_target(everything + "/claims/{queue}/{topic}")
    target.names.update(pool="first", flavor="first")
    headers = share(service, kind, target.names[kind], [collection], list(METHODS), by)
    with service.unchanged():
        for row in SERVED:
            if not opens(row, kind, collection):
                reply = connection.ask(row.action, body_of(target, row), headers)
                check_refused(reply, row)
                assert target.text not in reply.text, row
            else:
                # The body names another queue or topic than the signature.
                other = {**body_of(target, row), f"{kind}_name": f"n{uuid.uuid4().hex}"}
                check_refused(connection.ask(row.action, other, headers), row, "another name")
    for row in SERVED:
        if opens(row, kind, collection):
            own = service.new_target(row.path)
            headers = share(service, kind, own.names[kind], [collection], list(METHODS), by)
            reply = connection.ask(row.action, body_of(own, row), headers)
            assert reply.status == row.own, (row, reply)
    if beside == "no token":
        # After a signed request the connection has no new identity.
        assert connection.ask("queue_list").status == 403


@pytest.mark.parametrize(("kind", "collection"), COLLECTIONS)
def test_a_signature_opens_only_its_methods(service: Service, kind: str, collection: str) -> None:
    rows = [row for row in SERVED if opens(row, kind, collection)]
    target, connection = service.new_target("".join(row.path for row in rows)), Connection(service, None)
    for method in METHODS:
        headers = share(service, kind, target.names[kind], [collection], [method], "HTTP")
        with service.unchanged():
            for row in rows:
                if row.method != method:
                    check_refused(connection.ask(row.action, body_of(target, row), headers), row, method)


ODD_FORGERIES: Mapping[str, Mapping[str, Any]] = {
    f"{name} as {kind}": {name: value}
    for name in ("URL-Signature", "URL-Expires", "URL-Methods", "URL-Paths")
    for kind, value in {
        "a number": 1,
        "a truth value": True,
        "an object": {},
        "a list of numbers": [1],
        "a list of lists": [["POST"]],
        "an empty list": [],
    }.items()
}
"""Types that headers of HTTP cannot have."""


@pytest.mark.parametrize("beside", ["no token", "member", "admin"])
def test_a_forged_signature_opens_nothing(service: Service, callers: dict[str, Mapping[str, str]], beside: str) -> None:
    """A valid token beside a forged signature does not help either: the request is judged by the signature only."""
    row = next(row for row in ROWS if (row.action, row.kind) == ("message_post", "queue"))
    target, connection = service.new_target(row.path), connect(service, callers, beside)
    made = share(service, "queue", target.names["queue"], ["messages"], ["POST"], "WebSocket")
    text, body = as_text(made), body_of(target, row)
    with service.unchanged():
        for name, change in FORGERIES.items():
            if name == "without URL-Signature" and beside != "no token":
                continue  # then it is no signed request, and the caller who authenticated is used
            # The signature needs X-Project-ID in the frame. The project of the connection does not replace it.
            forged = {**text, **change(text)}
            reply = connection.ask(row.action, body, forged)
            assert reply.status in (400, 403), (name, reply)
        for name, odd in ODD_FORGERIES.items():
            assert connection.ask(row.action, body, {**made, **odd}).status in (400, 403), name
        assert connection.ask(row.action, body, {**made, "URL-Methods": ["POST", "DELETE"]}).status == 403
        # A comma in a member of a list does not make two members.
        assert connection.ask(row.action, body, {**made, "URL-Methods": ["GET,POST"]}).status == 403
    for headers in (made, text):
        assert connection.ask(row.action, body, headers).status == 201


def test_extra_spec_is_checked_beside_a_signature(service: Service) -> None:
    row = next(row for row in ROWS if (row.action, row.kind) == ("message_post", "queue"))
    target, connection = service.new_target(row.path), Connection(service, None)
    made, body = share(service, "queue", target.names["queue"], ["messages"], ["POST"], "HTTP"), body_of(target, row)
    with service.unchanged():
        for value in ("messagecode:x", "unknown:x"):
            forged = {**made, "URL-Expires": "2099-01-01T00:00:00", "EXTRA-SPEC": value}
            check_refused(connection.ask(row.action, body, forged), row)
        assert connection.ask(row.action, body, {**made, "EXTRA-SPEC": "unknown:x"}).status == 400
    assert connection.ask(row.action, body, {**made, "EXTRA-SPEC": "messagecode:x"}).status == 201
