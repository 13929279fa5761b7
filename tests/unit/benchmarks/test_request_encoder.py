# SPDX-License-Identifier: Apache-2.0
"""Requests as bytes, answers as JSON."""

from __future__ import annotations

import json
import re

import pytest

from zaqar.benchmarks.http_client import Answer, Endpoint
from zaqar.benchmarks.request_encoder import RequestEncoder, encode, hrefs, make_body, make_name, next_page, resources

ALICE = "3381af92-2b9e-11e3-b191-71861300734c"
ENCODER = RequestEncoder(Endpoint("http", "127.0.0.1", 8888), "project", client_id=ALICE)


def first_line(request: bytes) -> str:
    return request.partition(b"\r\n")[0].decode()


def test_a_request_carries_what_the_api_asks_for() -> None:
    assert ENCODER.post("q", [{"body": 1}]).decode().split("\r\n") == [
        "POST /v2/queues/q/messages HTTP/1.1",
        "Host: 127.0.0.1:8888",
        "Accept: application/json",
        f"Client-ID: {ALICE}",
        "X-Project-ID: project",
        "Content-Type: application/json",
        "Content-Length: 25",
        "",
        '{"messages":[{"body":1}]}',
    ]


def test_a_token_is_sent_if_one_is_given() -> None:
    encoder = RequestEncoder(ENCODER.endpoint, "project", "secret")
    assert b"\r\nX-Auth-Token: secret\r\n" in encoder.get("/v2/")
    assert b"X-Auth-Token" not in ENCODER.get("/v2/")


def test_clients_are_told_apart() -> None:
    assert RequestEncoder(ENCODER.endpoint, "p").client_id != RequestEncoder(ENCODER.endpoint, "p").client_id


def test_paths() -> None:
    assert first_line(ENCODER.create("q", {})) == "PUT /v2/queues/q HTTP/1.1"
    assert first_line(ENCODER.drop("q")) == "DELETE /v2/queues/q HTTP/1.1"
    assert first_line(ENCODER.page("q", limit=10)) == "GET /v2/queues/q/messages?limit=10 HTTP/1.1"
    assert first_line(ENCODER.claim("q", limit=1)) == "POST /v2/queues/q/claims?limit=1 HTTP/1.1"
    assert ENCODER.claim("q", limit=1, ttl=60, grace=61).endswith(b'\r\n\r\n{"ttl":60,"grace":61}')
    assert first_line(ENCODER.delete("/v2/queues/q/messages/a?claim_id=b")) == (
        "DELETE /v2/queues/q/messages/a?claim_id=b HTTP/1.1"
    )


def test_messages_of_a_claim_are_deleted_under_it() -> None:
    claimed = ["/v2/queues/q/messages/a?claim_id=c", "/v2/queues/q/messages/b?claim_id=c"]
    assert first_line(ENCODER.delete_claimed("q", claimed)) == (
        "DELETE /v2/queues/q/messages?ids=a,b&claim_ids=c HTTP/1.1"
    )


@pytest.mark.parametrize("size", [200, 1024, 100_000])
def test_a_body_has_the_size_that_was_asked_for(size: int) -> None:
    assert len(encode(make_body(size))) == size


def test_names_are_names_of_queues_and_new_each_time() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", make_name())
    assert make_name() != make_name()


def test_links_and_ids_are_read_from_answers() -> None:
    posted = Answer(201, json.dumps({"resources": ["/a", "/b"]}).encode())
    assert resources(posted) == ["/a", "/b"]
    page = {"messages": [{"href": "/a"}, {"href": "/b"}], "links": [{"rel": "next", "href": "/n"}]}
    assert hrefs(Answer(200, json.dumps(page).encode())) == ["/a", "/b"]
    assert next_page(Answer(200, json.dumps(page).encode())) == "/n"
    assert next_page(Answer(200, b'{"messages":[],"links":[]}')) is None
    assert hrefs(Answer(204, b"")) == []
