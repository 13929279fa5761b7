# SPDX-License-Identifier: Apache-2.0
"""Access to each endpoint: one table, and callers of every kind, against the application behind a real Keystone.

The answers and the stored data have to be as the tables say: a refused request writes nothing, and a request of
another project changes only data of that project.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import falcon
import pytest
from falcon import testing

from tests import servers
from tests.acceptance.access import Service, Target
from tests.acceptance.callers import FORGERIES, SPOOFED, Callers
from tests.keystone import ApplicationCredential, Keystone
from zaqar.transport.wsgi.app import pages, routes

ROOT = Path(__file__).parents[2]

TABLE = """
#      to      strict  own foreign signed for  path
GET    anybody -       300 300 -             /
GET    anybody -       404 404 -             /confirm
POST   anybody -       404 404 -             /confirm
GET    tenant  -       200 200 -             /v2/
GET    token   -       200 200 -             /v2/openapi.json
GET    token   -       200 200 -             /v2/asyncapi.json
GET    tenant  reader  204 204 -             /v2/ping
HEAD   tenant  reader  204 204 -             /v2/ping
GET    tenant  reader  200 200 -             /v2/limits
GET    admin   admin   200 200 -             /v2/health
GET    tenant  reader  200 200 -             /v2/queues
GET    tenant  reader  200 200 -             /v2/queues/{queue}
PUT    tenant  member  204 201 -             /v2/queues/{queue}
PATCH  tenant  member  200 404 -             /v2/queues/{queue}
DELETE tenant  manager 204 204 -             /v2/queues/{queue}
GET    tenant  reader  200 200 -             /v2/queues/{queue}/stats
POST   tenant  manager 204 204 -             /v2/queues/{queue}/purge
POST   tenant  manager 200 200 -             /v2/queues/{queue}/share
GET    tenant  reader  200 200 messages      /v2/queues/{queue}/messages
POST   tenant  member  201 201 messages      /v2/queues/{queue}/messages
DELETE tenant  member  200 200 messages      /v2/queues/{queue}/messages
GET    tenant  reader  200 404 messages      /v2/queues/{queue}/messages/{message}
DELETE tenant  member  204 204 messages      /v2/queues/{queue}/messages/{message}
POST   tenant  member  201 204 claims        /v2/queues/{queue}/claims
GET    tenant  reader  200 404 claims        /v2/queues/{queue}/claims/{claim}
PATCH  tenant  member  204 404 claims        /v2/queues/{queue}/claims/{claim}
DELETE tenant  member  204 204 claims        /v2/queues/{queue}/claims/{claim}
GET    tenant  reader  200 200 subscriptions /v2/queues/{queue}/subscriptions
POST   tenant  member  201 201 subscriptions /v2/queues/{queue}/subscriptions
GET    tenant  reader  200 404 subscriptions /v2/queues/{queue}/subscriptions/{subscription}
PATCH  tenant  member  204 404 subscriptions /v2/queues/{queue}/subscriptions/{subscription}
DELETE tenant  member  204 204 subscriptions /v2/queues/{queue}/subscriptions/{subscription}
PUT    tenant  member  204 404 subscriptions /v2/queues/{queue}/subscriptions/{subscription}/confirm
POST   tenant  member  200 404 -             /v2/queues/{queue}/subscriptions/{subscription}/rotate_secret
GET    tenant  reader  200 404 -             /v2/queues/{queue}/subscriptions/{subscription}/deliveries
POST   tenant  member  204 404 -             /v2/queues/{queue}/subscriptions/{subscription}/deliveries/{id}/resend
POST   tenant  member  200 404 -             /v2/queues/{queue}/subscriptions/{subscription}/resend
GET    tenant  reader  200 200 -             /v2/topics
GET    tenant  reader  200 200 -             /v2/topics/{topic}
PUT    tenant  member  204 201 -             /v2/topics/{topic}
PATCH  tenant  member  200 404 -             /v2/topics/{topic}
DELETE tenant  manager 204 204 -             /v2/topics/{topic}
GET    tenant  reader  200 200 -             /v2/topics/{topic}/stats
POST   tenant  manager 204 204 -             /v2/topics/{topic}/purge
POST   tenant  manager 200 200 -             /v2/topics/{topic}/share
GET    tenant  reader  200 200 messages      /v2/topics/{topic}/messages
POST   tenant  member  201 201 messages      /v2/topics/{topic}/messages
DELETE tenant  member  200 200 messages      /v2/topics/{topic}/messages
GET    tenant  reader  200 404 messages      /v2/topics/{topic}/messages/{message}
DELETE tenant  member  204 204 messages      /v2/topics/{topic}/messages/{message}
GET    tenant  reader  200 200 subscriptions /v2/topics/{topic}/subscriptions
POST   tenant  member  201 201 subscriptions /v2/topics/{topic}/subscriptions
GET    tenant  reader  200 404 subscriptions /v2/topics/{topic}/subscriptions/{subscription}
PATCH  tenant  member  204 404 subscriptions /v2/topics/{topic}/subscriptions/{subscription}
DELETE tenant  member  204 204 subscriptions /v2/topics/{topic}/subscriptions/{subscription}
PUT    tenant  member  204 404 subscriptions /v2/topics/{topic}/subscriptions/{subscription}/confirm
POST   tenant  member  200 404 -             /v2/topics/{topic}/subscriptions/{subscription}/rotate_secret
GET    tenant  reader  200 404 -             /v2/topics/{topic}/subscriptions/{subscription}/deliveries
POST   tenant  member  204 404 -             /v2/topics/{topic}/subscriptions/{subscription}/deliveries/{id}/resend
POST   tenant  member  200 404 -             /v2/topics/{topic}/subscriptions/{subscription}/resend
GET    admin   admin   200 200 -             /v2/pools
GET    admin   admin   200 200 -             /v2/pools/{pool}
PUT    admin   admin   201 201 -             /v2/pools/{pool}
PATCH  admin   admin   200 200 -             /v2/pools/{pool}
DELETE admin   admin   204 204 -             /v2/pools/{pool}
GET    tenant+ reader  200 200 -             /v2/flavors
GET    tenant+ reader  200 200 -             /v2/flavors/{flavor}
PUT    admin   admin   201 201 -             /v2/flavors/{flavor}
PATCH  admin   admin   200 200 -             /v2/flavors/{flavor}
DELETE admin   admin   204 204 -             /v2/flavors/{flavor}
"""
"""The rules of the policy. All other callers are refused, and no other method of these paths is served.

``anybody`` needs no token; ``token`` needs a valid one, of any scope; ``tenant`` needs one for a project, with any
role; ``tenant+`` needs that, or one for the whole deployment; ``admin`` needs the role admin, for a project or the
whole deployment. ``strict`` is the role that ``policy-strict.yaml.sample`` requires. ``own`` is the status if the
resource in the path exists in the caller's project, and ``foreign`` the status if it exists in another project, which
is the same as if it did not exist. ``signed for`` is the collection that a pre-signed URL has to name; ``{id}`` is a
delivery's id.
"""

CALLERS = """
# no identity: 401 wherever a token is needed
no token                    401
an empty token              401
blanks                      401
an unknown token            401
a foreign Keystone's token  401
a token in two headers      401
a token and a word          401
a token cut short           401
a token with a line feed    401
a token with a NUL          401
a long token                401
a token as a bearer's       401
a token in a cookie         401
an expired token            401
a revoked token             401
a disabled user             401
a service token alone       401
a bad service token         401
a user as a service         401
rules for other paths       401
# an identity without a project: 403
unscoped                    403
of a domain                 403
of the system               admin of the system
reader of the system        reader of the system
# in the project of the table's "own"
no role of ours             own
reader                      own
member                      own
manager                     own
admin                       own, admin
a trust                     own
an application credential   own
a service in between        own
as X-Storage-Token          own
with blanks around it       own
roles claimed by a reader   own
# in another project
member elsewhere            foreign
a claim to be in demo       foreign
"""
"""The callers that try each endpoint, and the identity with which each is served."""


class Row(NamedTuple):
    method: str
    path: str
    to: str
    strict: str
    own: int
    foreign: int
    signed: str


def _read_rows(table: str) -> list[Row]:
    rows = []
    for line in table.strip().splitlines():
        if not line.startswith("#"):
            method, to, strict, own, foreign, signed, path = line.split()
            rows.append(Row(method, path, to, strict, int(own), int(foreign), signed))
    return rows


ROWS = _read_rows(TABLE)
SERVED = {(row.method, row.path): row for row in ROWS}
PATHS = list(dict.fromkeys(row.path for row in ROWS))
OF_PATH = {row.path: row for row in reversed(ROWS)}
NOT_SERVED = [
    OF_PATH[path]._replace(method=method, own=0, foreign=0)
    for path in PATHS
    for method in falcon.HTTP_METHODS
    if (method, path) not in SERVED and method not in ("OPTIONS", "CONNECT")
]
CALLED = {line[:28].strip(): line[28:].strip() for line in CALLERS.strip().splitlines() if not line.startswith("#")}


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
def targets(service: Service) -> dict[str, Target]:
    """For callers that are refused: a target for each path."""
    return {path: service.new_target(path) for path in PATHS}


@pytest.fixture(scope="module")
def callers(keystone: Keystone) -> dict[str, Mapping[str, str]]:
    """The headers of each caller."""
    return Callers(keystone).headers()


# -- tokens -----------------------------------------------------------------------------------------------------------


def expected(caller: str, row: Row) -> int:
    """The status that the tables give. Rows of methods that are not served have status 0 here."""
    served_as = CALLED[caller]
    if row.to == "anybody":
        return row.own or 405
    if served_as == "401":
        return 401
    if row.to == "token":
        return row.own or 405
    if served_as == "403":
        return 403
    if "system" in served_as:
        is_let_in = row.to == "tenant+" or (row.to == "admin" and "admin" in served_as)
        return (row.own or 405) if is_let_in or (not row.own and row.to == "admin") else 403
    if not row.own:
        return 405
    if row.to == "admin":
        return row.own if "admin" in served_as else 403
    return row.own if "own" in served_as or row.to == "tenant+" else row.foreign


def test_the_table_has_every_endpoint(service: Service) -> None:
    found = {
        (method, template.replace("{delivery_id}", "{id}").replace("_name}", "}").replace("_id}", "}"))
        for template, resource in (routes(service.parts) | pages(service.parts)).items()
        for method in falcon.COMBINED_METHODS
        if hasattr(resource, f"on_{method.lower()}")
    }
    assert set(SERVED) == found


def test_the_table_has_every_caller(callers: Mapping[str, object]) -> None:
    assert set(CALLED) == set(callers)


@pytest.mark.parametrize("caller", CALLED)
def test_every_endpoint_answers_each_caller_as_the_table_says(
    service: Service, targets: dict[str, Target], callers: dict[str, Mapping[str, str]], caller: str
) -> None:
    headers = callers[caller]
    refused = [row for row in ROWS if expected(caller, row) in (401, 403)]
    with service.unchanged():
        for row in refused:
            answer = service.try_endpoint(targets[row.path], row.method, row.path, headers)
            check(answer, expected(caller, row), caller, row)
            assert targets[row.path].text not in shown(answer), row
    admitted = [(row, service.new_target(row.path)) for row in ROWS if row not in refused]
    before = service.dump()
    for row, target in admitted:
        answer = service.try_endpoint(target, row.method, row.path, headers)
        check(answer, expected(caller, row), caller, row)
        if CALLED[caller] == "foreign":
            assert target.text not in shown(answer), row
        elif row.method == "GET" and row.path.endswith(SHOW_THE_TEXT):
            assert target.text in shown(answer), row
    if CALLED[caller] == "foreign":
        after = service.dump()
        assert before <= after, f"changed or removed: {sorted(before - after)}"
        made = [each for each in after - before if service.project in each or any(s.text in each for _, s in admitted)]
        assert made == []


SHOW_THE_TEXT = ("{queue}", "{topic}", "/messages", "{message}", "/subscriptions", "{subscription}")
"""Ends of the paths at which a GET shows a text of the target."""


def check(answer: testing.Result, status: int, caller: str, row: Row) -> None:
    assert answer.status_code == status, (caller, row.method, row.path, answer.status, answer.text)
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Keystone uri="), row
        if row.method != "HEAD":
            assert answer.json["error"]["code"] == 401, row


def shown(answer: testing.Result) -> str:
    return f"{answer.text} {answer.headers}"


@pytest.mark.parametrize("caller", ["no token", "a revoked token", "unscoped", "of the system", "reader", "admin"])
def test_other_methods_are_not_served(
    service: Service, targets: dict[str, Target], callers: dict[str, Mapping[str, str]], caller: str
) -> None:
    with service.unchanged():
        for row in NOT_SERVED:
            answer = service.try_endpoint(targets[row.path], row.method, row.path, callers[caller])
            check(answer, expected(caller, row), caller, row)
        for path in PATHS:
            answer = service.try_endpoint(targets[path], "OPTIONS", path, callers[caller])
            is_open = OF_PATH[path].to == "anybody" or CALLED[caller] != "401"
            assert answer.status_code == (200 if is_open else 401), path


@pytest.mark.parametrize("name", SPOOFED)
def test_a_header_does_not_change_the_identity_of_a_caller(
    service: Service, targets: dict[str, Target], callers: dict[str, Mapping[str, str]], name: str
) -> None:
    ids = {"admin": service.keystone.id_of("user", "admin"), "demo": service.project}
    value = SPOOFED[name].replace("{admin}", ids["admin"]).replace("{demo}", ids["demo"])
    with service.unchanged():
        for caller in ("no token", "member elsewhere"):
            for row in ROWS:
                status = expected(caller, row)
                if status < 400 and row.method != "GET":
                    continue  # The test above shows that such requests are served.
                answer = service.try_endpoint(targets[row.path], row.method, row.path, {**callers[caller], name: value})
                check(answer, status, f"{caller} with {name}", row)
                assert targets[row.path].text not in shown(answer), row
        for row in ROWS:
            if row.to == "admin":
                headers = {**callers["reader"], name: value}
                answer = service.try_endpoint(targets[row.path], row.method, row.path, headers)
                check(answer, 403, f"reader with {name}", row)


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
    service = strict_service
    refused = [row for row in ROWS if RANKS.index(row.strict) > RANKS.index(caller)]
    assert refused or caller == "admin"
    targets = {row.path: service.new_target(row.path) for row in refused}
    with service.unchanged():
        for row in refused:
            answer = service.try_endpoint(targets[row.path], row.method, row.path, callers[caller])
            check(answer, 403, caller, row)
            assert targets[row.path].text not in shown(answer), row
    for row in ROWS:
        if row not in refused:
            answer = service.try_endpoint(service.new_target(row.path), row.method, row.path, callers[caller])
            check(answer, row.own, caller, row)


# -- EXTRA-SPEC -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["messagecode:anything", "messagecode", "unknown:anything", "", ":", "x" * 5000])
def test_extra_spec_does_not_admit_a_refused_caller(
    service: Service, targets: dict[str, Target], callers: dict[str, Mapping[str, str]], value: str
) -> None:
    """The header is an additional check: an accepted value changes nothing, and a refused one refuses every request."""
    is_accepted = value.startswith("messagecode")
    with service.unchanged():
        for caller in ("no token", "an unknown token", "a revoked token", "unscoped", "reader", "member elsewhere"):
            for row in ROWS:
                status = expected(caller, row)
                if status in (401, 403) or (row.method == "GET" and row.to != "anybody"):
                    headers = {**callers[caller], "EXTRA-SPEC": value}
                    answer = service.try_endpoint(targets[row.path], row.method, row.path, headers)
                    by_spec = status != 401 and not is_accepted and row.to != "token"
                    # A token without a project is refused earlier, and the policy is asked later.
                    by_spec = by_spec and caller != "unscoped"
                    check(answer, 400 if by_spec else status, f"{caller} with EXTRA-SPEC", row)


def test_extra_spec_is_checked_beside_a_signature(service: Service) -> None:
    path = "/v2/queues/{queue}/messages"
    target = service.new_target(path)
    made = share(service, "queue", target.names["queue"], ["messages"], ["POST"])
    with service.unchanged():
        for value in ("messagecode:x", "unknown:x"):
            forged = {**made, "URL-Expires": "2099-01-01T00:00:00", "EXTRA-SPEC": value}
            assert is_refused(service.try_endpoint(target, "POST", path, forged), "POST")
        refused = service.try_endpoint(target, "POST", path, {**made, "EXTRA-SPEC": "unknown:x"})
        assert refused.status_code == 400
    accepted = service.try_endpoint(target, "POST", path, {**made, "EXTRA-SPEC": "messagecode:x"})
    assert accepted.status_code == 201


# -- trusts -----------------------------------------------------------------------------------------------------------


def test_a_caller_with_few_roles_gets_no_more_by_a_trust_of_its_user(service: Service) -> None:
    """A caller who names a trust, or redirects a subscription that has one, gets no token with more roles."""
    keystone = service.keystone
    user = keystone.new_user("demo", "manager")
    own, id_ = keystone.token(user), keystone.id_of("user", user)
    wanted = {"application_credential": {"name": "few", "roles": [{"name": "reader"}]}}
    made = keystone.request("POST", f"/users/{id_}/application_credentials", wanted, token=own)[
        "application_credential"
    ]
    few = keystone.token_of(ApplicationCredential(made["id"], made["secret"]))
    trust = keystone.trust(user)
    path = f"/v2/queues/q{uuid.uuid4().hex}/subscriptions"
    hook = {"subscriber": "trust+http://192.0.2.1/intruder", "options": {"trust_id": trust}}
    assert service.ask("POST", path, hook, token=few).status_code == 400
    assert service.ask("GET", path, token=own).json["subscriptions"] == []
    for options in ({"trust_id": trust}, {}):
        subscriber = f"trust+http://192.0.2.1/{uuid.uuid4().hex}"
        answer = service.ask("POST", path, {"subscriber": subscriber, "options": options}, token=own)
        assert answer.status_code == 201, answer.text
        one = f"{path}/{answer.json['subscription_id']}"
        for change in ({"subscriber": hook["subscriber"]}, {"options": {"post_data": "x"}}):
            assert service.ask("PATCH", one, change, token=few).status_code == 403
        assert service.ask("GET", one, token=own).json["subscriber"] == subscriber
        assert service.ask("PATCH", one, {"subscriber": subscriber + "/b"}, token=own).status_code == 204


# -- signatures -------------------------------------------------------------------------------------------------------

COLLECTIONS = [("queue", "messages"), ("queue", "claims"), ("queue", "subscriptions")]
COLLECTIONS += [("topic", "messages"), ("topic", "subscriptions")]
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def share(service: Service, kind: str, name: str, paths: list[str], methods: list[str]) -> dict[str, str]:
    """The headers of a pre-signed URL that a member of ``demo`` requests."""
    answer = service.ask("POST", f"/v2/{kind}s/{name}/share", {"paths": paths, "methods": methods})
    assert answer.status_code == 200, answer.text
    made = answer.json
    return {
        "URL-Signature": made["signature"],
        "URL-Expires": made["expires"],
        "URL-Methods": ",".join(made["methods"]),
        "URL-Paths": ",".join(made["paths"]),
        "X-Project-ID": made["project"],
    }


def opens(row: Row, kind: str, collection: str) -> bool:
    return row.signed == collection and row.path.startswith(f"/v2/{kind}s")


REFUSAL = {"title": "Not found", "description": "The signature does not open this."}


def is_refused(answer: testing.Result, method: str) -> bool:
    """Whether it is the one answer to all signatures that are not valid."""
    return answer.status_code == 404 and (answer.text == "" if method == "HEAD" else answer.json == REFUSAL)


@pytest.mark.parametrize(("kind", "collection"), COLLECTIONS)
@pytest.mark.parametrize("beside", ["no token", "admin"])
def test_a_signature_opens_its_collection_and_nothing_else(
    service: Service, callers: dict[str, Mapping[str, str]], kind: str, collection: str, beside: str
) -> None:
    """With all methods. A token beside the signature changes nothing, whoever owns it."""
    below = [row for row in ROWS if "{" + kind + "}" in row.path]
    everywhere = max(below, key=lambda row: len(row.path)).path
    others = [row for row in ROWS if not opens(row, kind, collection)]
    target = service.new_target(everywhere + "/claims/{queue}/{topic}")
    target.names.update(pool="first", flavor="first")
    headers = {**callers[beside], **share(service, kind, target.names[kind], [collection], list(METHODS))}
    with service.unchanged():
        for row in others:
            answer = service.try_endpoint(target, row.method, row.path, headers)
            assert is_refused(answer, row.method), (row, answer.status, answer.text)
            assert target.text not in shown(answer), row
        for row in NOT_SERVED:
            answer = service.try_endpoint(target, row.method, row.path, headers)
            is_open = opens(row, kind, collection) and row.method in METHODS and not row.path.endswith("/confirm")
            status = 405 if is_open else 404
            assert answer.status_code == status, (row, answer.text)
    for row in ROWS:
        if opens(row, kind, collection):
            own = service.new_target(row.path)
            headers = {**callers[beside], **share(service, kind, own.names[kind], [collection], list(METHODS))}
            answer = service.try_endpoint(own, row.method, row.path, headers)
            assert answer.status_code == row.own, (row, answer.text)


@pytest.mark.parametrize(("kind", "collection"), COLLECTIONS)
def test_a_signature_opens_only_its_methods(service: Service, kind: str, collection: str) -> None:
    rows = [row for row in ROWS if opens(row, kind, collection)]
    target = service.new_target("".join(row.path for row in rows))
    for method in METHODS:
        headers = share(service, kind, target.names[kind], [collection], [method])
        with service.unchanged():
            for row in rows:
                if row.method != method:
                    answer = service.try_endpoint(target, row.method, row.path, headers)
                    assert is_refused(answer, row.method), (method, row, answer.status)


@pytest.mark.parametrize("beside", ["no token", "member", "admin"])
def test_a_forged_signature_opens_nothing(service: Service, callers: dict[str, Mapping[str, str]], beside: str) -> None:
    """A valid token beside a forged signature does not help either: the request is judged by the signature only."""
    path = "/v2/queues/{queue}/messages"
    target = service.new_target(path)
    made = share(service, "queue", target.names["queue"], ["messages"], ["POST"])
    with service.unchanged():
        for name, change in FORGERIES.items():
            if name == "without URL-Signature" and beside != "no token":
                continue  # then it is no signed request, and the token is used
            forged = {header: value for header, value in {**made, **change(made)}.items() if value is not None}
            answer = service.try_endpoint(target, "POST", path, {**callers[beside], **forged})
            is_unsigned = name == "without URL-Signature" and answer.status_code == 401
            assert is_unsigned or is_refused(answer, "POST"), (name, answer.status, answer.text)
    assert service.try_endpoint(target, "POST", path, {**callers[beside], **made}).status_code == 201


# -- paths ------------------------------------------------------------------------------------------------------------

AROUND = (
    "//", "/.", "/..", "/./", "/../", "/ ", "/;x", "/%2f", "/%2e", "/%2e%2e/", "/%00", "/index", "/confirm/",
    "/confirm//", "/confirm/.", "/confirm/..", "/confirm/../v2/queues", "/confirm%2f", "/confirm%2f..%2fv2/queues",
    "/confirm;x", "/confirm%20", "/confirm%00", "/CONFIRM", "/Confirm", "/.//confirm", "//confirm", "/v2", "/v2/",
    "/v2//", "//v2/", "//v2/queues", "/v2//queues", "/v2/./queues", "/v2/../v2/queues", "/./v2/queues", "/%2fv2/queues",
    "/v2%2fqueues", "/v2/queues/", "/v2/queues;x", "/v2/queues/%2e%2e/pools", "/v2/ping/", "/v2/ping;x", "/v2/%70ing",
    "/v2/health/", "/v1/queues", "/v1.1/queues", "/v2.0/queues", "/ping", "/health", "/livez/", "/readyz;x", "/metrics",
)  # fmt: skip
"""Targets that are similar to open ones, or to protected ones."""


def test_paths_similar_to_open_ones_are_not_open(service: Service, targets: dict[str, Target]) -> None:
    with service.unchanged():
        for target in AROUND:
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                for query in ("", "?x=/", "?/confirm"):
                    answer = service.send(method, f"{target}{query}", {} if method == "POST" else None)
                    assert answer.status_code == 401, (method, target, answer.status)
