# SPDX-License-Identifier: Apache-2.0
"""Headers, query and body of valid and invalid requests."""

from __future__ import annotations

import contextlib
import gc
import logging
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import falcon
import pytest
from falcon import testing
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workers import make_limits
from zaqar.access import signed_urls
from zaqar.access.signed_urls import SignedUrls
from zaqar.context import Context
from zaqar.errors import InvalidInput, NotAcceptable, NotFound, SignatureRefused
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.transport.wsgi.requests import RequestChecks, read_body, read_query
from zaqar.transport.wsgi.signed_requests import SignedRequests

ID = "3381af92-2b9e-11e3-b191-71861300734c"
MOST = 10


class Stream:
    """A server's body: what each read returns, or raises, in turn."""

    def __init__(self, *parts: bytes | BaseException) -> None:
        self.parts = list(parts)
        self.asked: list[int] = []

    def read(self, size: int) -> bytes:
        assert size > 0, "a read of nothing, or of everything, blocks on some servers"
        self.asked.append(size)
        part = self.parts.pop(0) if self.parts else b""
        if isinstance(part, BaseException):
            raise part
        if len(part) > size:
            self.parts.insert(0, part[size:])
        return part[:size]


def request(stream: Stream | None = None, *, length: object = None, coding: str | None = None, query: str = "") -> Any:
    env = testing.create_environ(path="/v2/queues/q/messages", method="POST")
    env["QUERY_STRING"] = query
    env["wsgi.input"] = stream or Stream(AssertionError("nothing is to be read"))
    env.pop("CONTENT_LENGTH", None)
    if length is not None:
        env["CONTENT_LENGTH"] = str(length)
    if coding is not None:
        env["HTTP_TRANSFER_ENCODING"] = coding
    return falcon.Request(env)


def refusal(req: Any, most: int = MOST) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_body(req, most)
    return str(caught.value)


# -- bodies ----------------------------------------------------------------------------------------------------------


def test_a_request_without_a_body_is_not_read() -> None:
    assert read_body(request(), MOST) == b""
    assert read_body(request(length=0), MOST) == b""
    assert read_body(request(length=""), MOST) == b""


def short_reads(raw: bytes, step: int) -> Stream:
    return Stream(*(raw[at : at + step] for at in range(0, len(raw), step)))


@pytest.mark.parametrize("step", [1, 3, 10, 100])
@pytest.mark.parametrize("size", [1, 9, 10])
def test_a_body_that_arrives_in_pieces_is_read_whole(size: int, step: int) -> None:
    raw = b"0123456789"[:size]
    assert read_body(request(short_reads(raw, step), length=size), MOST) == raw
    assert read_body(request(short_reads(raw, step), coding="chunked"), MOST) == raw


def test_bytes_after_the_content_length_are_not_read() -> None:
    """They belong to the next request of the connection."""
    stream = Stream(b"12345GET /")
    assert read_body(request(stream, length=5), MOST) == b"12345"
    assert stream.parts == [b"GET /"]


@pytest.mark.parametrize("parts", [[], [b"1234"], [b"1", b"234"], [b"1234", b"", b"5"]])
def test_a_body_shorter_than_its_content_length_is_refused(parts: list[bytes]) -> None:
    had = len(b"".join(parts)[:4])
    assert (
        refusal(request(Stream(*parts), length=5)) == f"body: ends after {had} of the 5 bytes that Content-Length says"
    )


@pytest.mark.parametrize("length", [MOST + 1, 10**9, 10**30])
def test_a_length_beyond_the_limit_is_refused_unread(length: int) -> None:
    assert refusal(request(length=length)) == f"body: has {length} bytes, more than {MOST}"


@pytest.mark.parametrize("step", [1, 4, 11, 100])
def test_reading_stops_at_chunks_beyond_the_limit(step: int) -> None:
    stream = short_reads(b"x" * 1000, step)
    assert refusal(request(stream, coding="chunked")) == f"body: has more than {MOST} bytes"
    assert 1000 - sum(len(part) for part in stream.parts if isinstance(part, bytes)) == MOST + 1


class ServerError(Exception):
    """An error that a WSGI server raises for bad framing, of its own class."""


@pytest.mark.parametrize(
    "error", [ServerError("chunk"), OSError(104, "reset"), ValueError("x"), EOFError(), TimeoutError()]
)
@pytest.mark.parametrize("before", [[], [b"12"]])
def test_a_body_that_breaks_off(error: Exception, before: list[bytes]) -> None:
    text = "body: breaks off or is not framed correctly"
    assert refusal(request(Stream(*before, error), length=5)) == text
    assert refusal(request(Stream(*before, error), coding="chunked")) == text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_an_exception_that_ends_the_process_passes_through_the_read(error: BaseException) -> None:
    with pytest.raises(type(error)):
        read_body(request(Stream(error), length=5), MOST)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " chunked", "CHUNKED "])
def test_chunked_bodies_are_read(coding: str) -> None:
    assert read_body(request(Stream(b"1"), coding=coding), MOST) == b"1"


@pytest.mark.parametrize(
    "coding", ["", "gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1"]
)
def test_other_codings_are_refused_unread(coding: str) -> None:
    assert refusal(request(coding=coding)) == "Transfer-Encoding: must be 'chunked'"


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "1e1", "5 5", "0x5"])
def test_a_bad_length_is_a_bad_request(length: str) -> None:
    with pytest.raises(falcon.HTTPBadRequest):
        read_body(request(length=length), MOST)


@given(
    raw=st.binary(max_size=30), sizes=st.lists(st.integers(1, 7), max_size=30), length=st.none() | st.integers(0, 30)
)
def test_any_pieces_and_any_length(raw: bytes, sizes: list[int], length: int | None) -> None:
    """The whole body is returned as it was sent, or the request is refused."""

    def pieces() -> Iterator[bytes]:
        at = 0
        for size in sizes:
            if at < len(raw):
                yield raw[at : at + size]
                at += size
        if at < len(raw):
            yield raw[at:]

    req = request(Stream(*pieces()), length=length, coding="chunked" if length is None else None)
    try:
        body = read_body(req, MOST)
    except InvalidInput:
        assert (len(raw) > MOST) if length is None else (length > MOST or len(raw) < length)
    else:
        assert body == (raw if length is None else raw[:length])
        assert len(body) <= MOST


# -- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=", {}),
        ("a=&b=1", {"b": "1"}),
        ("a", {}),
        ("&&a=1&&", {"a": "1"}),
        ("=1", {"": "1"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1+2%2B3", {"a": "1 2+3"}),
        ("a=%C3%A9", {"a": "é"}),
        ("a=%F0%9F%98%80", {"a": "\U0001f600"}),
        ("a=%2500", {"a": "%00"}),
        ("a=%zz", {"a": "%zz"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("a=1&a=", {"a": "1"}),
        ("ids=a&ids=b,c&ids=", {"ids": "a,b,c"}),
        ("claim_ids=a&x=1&claim_ids=b", {"claim_ids": "a,b", "x": "1"}),
        ("&".join(f"k{n}=1" for n in range(100)), {f"k{n}": "1" for n in range(100)}),
        # Bytes that were not escaped: UTF-8, as WSGI spells it.
        ("a=é".encode().decode("latin-1"), {"a": "é"}),
    ],
)
def test_queries_are_parsed(text: str, query: dict[str, str]) -> None:
    assert read_query(request(query=text)) == query


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a=1&a=2", "a: is given twice in the query"),
        ("a=1&a=1", "a: is given twice in the query"),
        ("%61=1&b=1&a=2", "a: is given twice in the query"),
        ("limit=1&ids=a&ids=b&limit=2", "limit: is given twice in the query"),
        ("a=%FF", "query: is not valid UTF-8"),
        ("a=%ED%A0%80", "query: is not valid UTF-8"),
        ("%61=%00", "a: must not hold the character U+0000"),
        ("b=1&a=x%00y", "a: must not hold the character U+0000"),
        ("b=1&a=x\x00y", "a: must not hold the character U+0000"),
        ("b=1&a%00=x", "query: has a parameter whose name holds the character U+0000"),
        ("%C3=1", "query: is not valid UTF-8"),
        ("a=\xe9", "query: is not valid UTF-8"),
        ("&".join(f"k{n}=1" for n in range(101)), "query: has more than 100 parameters"),
        ("ids=a&" * 101, "query: has more than 100 parameters"),
        ("&" * 100_000, "query: has more than 100 parameters"),
    ],
)
def test_bad_queries_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_query(request(query=text))
    assert str(caught.value) == complaint


texts = st.characters(codec="utf-8", exclude_characters="\x00")


@given(query=st.dictionaries(st.text(texts), st.text(texts, min_size=1)))
def test_any_encoded_query_is_decoded(query: dict[str, str]) -> None:
    assert read_query(request(query=urlencode(query))) == query
    spelled = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    assert read_query(request(query=spelled)) == query


# -- headers ---------------------------------------------------------------------------------------------------------


def checked(
    headers: dict[str, str],
    *,
    params: dict[str, Any] | None = None,
    resource: object = None,
    method: str = "GET",
    checks: dict[str, Any] | None = None,
    path: str = "/v2/queues",
    env: dict[str, str] | None = None,
    **limits: Any,
) -> Any:
    """The request's context after the checks. ``env`` has additional values of the environment."""
    env = testing.create_environ(path=path, method=method) | (env or {})
    for name, value in headers.items():
        variable = name.upper().replace("-", "_")
        env[variable if variable.startswith("CONTENT_") else f"HTTP_{variable}"] = value
    req, resp = falcon.Request(env), falcon.Response()
    middleware = RequestChecks(make_limits(**limits), **(checks or {}))
    middleware.process_request(req, resp)
    assert resp.get_header("X-OpenStack-Request-ID") == req.context.request_id
    middleware.process_resource(req, resp, resource, {} if params is None else params)
    return req.context


def complaint(headers: dict[str, str], **kwargs: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        checked(headers, **kwargs)
    return caught.value.field


GOOD = {"Client-ID": ID, "X-Project-ID": "shop"}


def test_the_caller_is_read_from_the_headers() -> None:
    caller = checked({**GOOD, "X-Roles": " Admin, ,member,ADMIN", "X-User-ID": "u"}).caller
    assert caller.project == "shop"
    assert caller.client_id == ID.replace("-", "")
    assert caller.roles == {"admin", "member"}
    assert caller.user_id == "u"
    bare = checked(GOOD).caller
    assert (bare.roles, bare.user_id) == (frozenset(), None)


@pytest.mark.parametrize(
    "headers",
    [
        lambda n: {"X-Roles": ",".join(f"{n}{role}" for role in range(2000))},
        lambda n: {"X-Roles": f"{n}" * 4000},
        lambda n: {"X-Roles": "," * 8000 + f"{n}"},
        lambda n: {"X-User-ID": f"{n}" * 4000},
        lambda n: {"Client-ID": str(uuid.UUID(int=n)) + "-" * 8000},
        lambda n: {"Client-ID": "{" * 8000 + str(uuid.UUID(int=n))},
    ],
    ids=["many roles", "a long role", "commas", "a long user id", "hyphens", "braces"],
)
def test_long_headers_leave_nothing_in_memory(headers: Callable[[int], dict[str, str]]) -> None:
    """Caches of headers are bounded in bytes and not only in entries, because callers choose the headers."""

    def send(n: int) -> None:
        with contextlib.suppress(InvalidInput):
            checked({**GOOD, **headers(n)})

    send(0)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(1, 50):
            send(n)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 150_000


def test_many_roles_are_all_read() -> None:
    roles = {f"role-{number}" for number in range(500)}
    for _ in range(2):
        assert checked({**GOOD, "X-Roles": ",".join(roles)}).caller.roles == roles


def test_each_request_has_its_own_uuid() -> None:
    ids = {checked(GOOD).request_id for _ in range(10)}
    assert len(ids) == 10
    for id_ in ids:
        assert uuid.UUID(id_.removeprefix("req-")).version == 4


@pytest.mark.parametrize(
    "text", [ID, ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", f"urn:uuid:{ID.upper()}"]
)
def test_one_client_however_it_spells_its_uuid(text: str) -> None:
    assert checked({**GOOD, "Client-ID": text}).caller.client_id == ID.replace("-", "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", ID[:-1], ID + "0", ID[:-1] + "g", "0x" + "0" * 30, "0_" * 16, "+" + "1" * 31, "1" * 31 + "\xb2"),
        *(" " * 32, "{}", "urn:uuid:", "-" * 32, f"{{{{{{{ID}}}}}}}" + "-" * 4, ID + "-" * 4000, "{" * 4000 + ID),
    ],
)
def test_a_client_id_that_is_no_uuid_is_refused(text: str) -> None:
    assert complaint({**GOOD, "Client-ID": text}) == "Client-ID"
    assert complaint({"X-Project-ID": "shop"}) == "Client-ID"


@pytest.mark.parametrize(
    ("text", "fits"), [("", False), ("ab", False), ("abc", True), ("x y z", True), ("abcdef", False)]
)
def test_clients_without_uuid_have_a_length(text: str, fits: bool) -> None:
    limits = {"client_id_uuid_safe": "off", "min_length_client_id": 3, "max_length_client_id": 5}
    if fits:
        assert checked({**GOOD, "Client-ID": text}, **limits).caller.client_id == text
    else:
        assert complaint({**GOOD, "Client-ID": text}, **limits) == "Client-ID"


@pytest.mark.parametrize("project", ["p", "0" * 32, "a-b_c.d:/", "x" * 256])
def test_valid_projects_are_accepted(project: str) -> None:
    assert checked({**GOOD, "X-Project-ID": project}).caller.project == project
    assert checked({"Client-ID": ID, "X-Tenant-ID": project}).caller.project == project


@pytest.mark.parametrize(
    "project", ["", " ", "a ", " a", "a,b", "a\t", "x" * 257, "a\x00", "a\x7f", "a\n", "\xe9", "a\x80"]
)
def test_invalid_projects_are_refused(project: str) -> None:
    assert complaint({**GOOD, "X-Project-ID": project}) == "X-Project-ID"
    assert complaint({"Client-ID": ID}) == "X-Project-ID"


def test_an_empty_project_counts_as_missing() -> None:
    assert checked({**GOOD, "X-Project-ID": "", "X-Tenant-ID": "t"}).caller.project == "t"


def test_the_address_of_a_queue() -> None:
    params = {"queue_name": "orders", "message_id": "x"}
    assert checked(GOOD, params=params).queue_name == QueueName("shop", QUEUE, "orders")
    assert params == {"message_id": "x"}, "a responder gets the rest of the path only"
    assert not hasattr(checked(GOOD), "queue_name")
    for name in ("", "a b", "é", "..", "x" * 65, "a\n"):
        assert complaint(GOOD, params={"queue_name": name}) == "queue_name"


class Open:
    open_to_all = True


@pytest.mark.parametrize(("resource", "method"), [(Open(), "GET"), (None, "OPTIONS")])
def test_open_resources_need_no_headers(resource: object, method: str) -> None:
    context = checked({}, resource=resource, method=method, params={"queue_name": "a b"})
    assert not hasattr(context, "caller")
    with pytest.raises(NotAcceptable):
        checked({"Accept": "text/html"}, resource=resource, method=method)


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "text/html, */*;q=0.1"])
def test_accept_headers_that_admit_json_are_served(accept: str) -> None:
    assert checked({**GOOD, "Accept": accept}).caller


@pytest.mark.parametrize(
    "accept", ["text/html", "application/xml", "application/json;q=0", "nonsense", "application/jsonx"]
)
def test_accept_headers_that_exclude_json_are_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        checked({**GOOD, "Accept": accept})


def test_a_form_is_refused_if_the_request_has_a_body() -> None:
    form = {**GOOD, "Content-Type": "Application/x-www-form-urlencoded; charset=utf-8"}
    assert checked(form).caller
    assert checked({**form, "Content-Length": "0"}).caller
    assert complaint({**form, "Content-Length": "5"}) == "Content-Type"
    assert complaint({**form, "Transfer-Encoding": "chunked"}) == "Content-Type"


# -- signatures ------------------------------------------------------------------------------------------------------


NOW = 1_700_000_000.0


PATH = "/v2/queues/q/messages"


def signed(path: str = PATH, *, project: str = "shop", methods: str = "GET", seconds: float = 60) -> dict[str, str]:
    expires = signed_urls.format_time(NOW + seconds)
    signature = signed_urls.sign(
        "key", project=project, paths=path.split(","), methods=methods.split(","), expires=expires
    )
    headers = {"URL-Signature": signature, "URL-Paths": path, "URL-Methods": methods, "URL-Expires": expires}
    return {"Client-ID": ID, "X-Project-ID": project, **headers}


def keyed(key: str | None = "key") -> dict[str, Any]:
    return {"signed": SignedRequests(SignedUrls(key), clock=lambda: NOW)}


def test_a_signature_that_opens_the_path() -> None:
    for headers in (signed(), signed(f"{PATH},/v2/queues/q/claims", methods="PUT,GET")):
        context = checked(headers, checks=keyed(), path=PATH)
        assert (context.caller.project, context.caller.signed, context.grant) == ("shop", True, None)
    assert not checked(GOOD).caller.signed


def test_a_signature_gives_the_caller_no_identity() -> None:
    who = {"X-Roles": "admin", "X-User-Id": "root", "X-Auth-Token": "token", "X-Tenant-ID": "other"}
    caller = checked({**signed(), **who}, checks=keyed(), path=PATH).caller
    assert caller == Context("shop", ID.replace("-", ""), request_id=caller.request_id, signed=True)
    assert caller.token is None


BAD = [
    {**signed(), "URL-Paths": "/v2/queues/.*/messages"},
    signed("/v2"),
    signed(methods="POST"),
    signed(seconds=0),
    {**signed(), "X-Project-ID": "other"},
    {**signed(), "URL-Signature": "x"},
    {**signed(), "URL-Signature": ""},
    {"URL-Signature": "x"},
]


@pytest.mark.parametrize("headers", BAD)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "BREW"])
def test_a_signature_that_does_not_open_the_path_is_refused(headers: dict[str, str], method: str) -> None:
    """The request is refused before routing, so the answer does not show whether the path exists."""
    with pytest.raises(SignatureRefused):
        checked(headers, checks=keyed(), path=PATH, method=method, resource=AssertionError("it is not reached"))


def test_a_tenant_of_an_old_name_is_not_signed() -> None:
    headers = signed()
    headers["X-Tenant-ID"] = headers.pop("X-Project-ID")
    with pytest.raises(SignatureRefused):
        checked(headers, checks=keyed(), path=PATH)


def test_without_a_key_there_are_no_signatures() -> None:
    for key in (None, ""):
        with pytest.raises(SignatureRefused):
            checked(signed(), checks=keyed(key), path=PATH)
    with pytest.raises(SignatureRefused):
        checked(signed(), path=PATH)


@pytest.mark.parametrize("variable", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("target", "opens"),
    [
        (PATH, True),
        (f"{PATH}?a=/%2F&b=?", True),
        (f"/messaging{PATH}?x", True),
        (f"http://example.org{PATH}", True),
        (None, True),
        ("/v2/queues/q%2Fmessages", False),
        ("/v2/queues/%71/messages", False),
        (f"{PATH}/", False),
        (f"{PATH}#x", False),
        ("/v2/queues/q/./messages", False),
        (f"/v2/queues/x?{PATH}", False),
    ],
)
def test_a_signed_path_must_not_be_percent_encoded(variable: str, target: str | None, opens: bool) -> None:
    env = {"RAW_URI": "", "REQUEST_URI": "", variable: target or ""}
    if opens:
        assert checked(signed(), checks=keyed(), path=PATH, env=env).caller.signed
    else:
        with pytest.raises(SignatureRefused):
            checked(signed(), checks=keyed(), path=PATH, env=env)


def test_a_path_that_is_not_below_the_mount_path() -> None:
    """gunicorn serves /abc below /a, and calls that "bc"."""
    with pytest.raises(SignatureRefused):
        checked(signed(), checks=keyed(), env={"SCRIPT_NAME": "/a", "PATH_INFO": "bc" + PATH})
    with pytest.raises(NotFound):
        checked(GOOD, checks=keyed(), env={"SCRIPT_NAME": "/a", "PATH_INFO": "bc" + PATH})


def test_only_a_resource_that_checks_grants_gets_one() -> None:
    class Confirms:
        checks_grants = True

    path = f"/v2/queues/q/subscriptions/{'0' * 24}/confirm"
    headers = signed(path, methods="PUT")
    assert checked(headers, checks=keyed(), path=path, method="PUT", resource=Confirms()).grant is not None
    with pytest.raises(SignatureRefused):
        checked(headers, checks=keyed(), path=path, method="PUT", resource=Open())


def test_refusals_log_few_lines_without_data_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    now = NOW
    requests = SignedRequests(SignedUrls("key"), clock=lambda: now)

    def send(headers: dict[str, str], times: int) -> None:
        for _ in range(times):
            with pytest.raises(SignatureRefused) as refused:
                checked(headers, checks={"signed": requests}, path=PATH)
            requests.note(refused.value)

    with caplog.at_level(logging.INFO):
        send(signed(seconds=-1), 10)
        send({**signed(), "X-Project-ID": "secret-project"}, 5)
        now += 60
        send(signed(methods="POST", seconds=120), 1)
        now -= 3600
        send(signed(seconds=-7200), 1)
    first, *others = (message.partition("; ")[2].removesuffix(".").split(", ") for message in caplog.messages)
    assert first == ["it has expired: 1"]
    assert others == [
        ["it has expired: 9", "no key has made the signature: 5", "it is for other paths or methods: 1"],
        ["it has expired: 1"],
    ]
    for header in (signed()["URL-Signature"], "secret-project", "/v2/queues"):
        assert header not in caplog.text


def test_a_signature_replaces_no_other_check() -> None:
    headers = signed()
    del headers["Client-ID"]
    with pytest.raises(InvalidInput, match="Client-ID"):
        checked(headers, checks=keyed(), path=PATH)


def test_other_headers_of_a_signature_have_no_effect_without_it() -> None:
    headers = signed()
    del headers["URL-Signature"]
    assert checked(headers, checks=keyed()).caller.project == "shop"


def test_only_a_page_for_browsers_is_served_as_html() -> None:
    class Page:
        open_to_all = True
        for_browsers = True

    checked({"Accept": "text/html"}, resource=Page())
    with pytest.raises(NotAcceptable):
        checked({**GOOD, "Accept": "text/html"})


def test_the_address_of_a_topic() -> None:
    assert checked(GOOD, params={"topic_name": "t"}).queue_name == QueueName("shop", TOPIC, "t")
    assert complaint(GOOD, params={"topic_name": "a b"}) == "topic_name"
