# SPDX-License-Identifier: Apache-2.0
"""Pre-signed access: a grant opens what it says and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar import signed_urls
from zaqar.signed_urls import covers, format_time, parse_time

KEY = "secret"
NOW = 1_700_000_000.0
MESSAGES = "/v2/queues/q/messages"


class Grant(NamedTuple):
    project: str
    paths: tuple[str, ...]
    methods: tuple[str, ...]
    expires: str


def sign(key: str, grant: Grant) -> str:
    return signed_urls.sign(key, **grant._asdict())


GRANT = Grant("shop", (MESSAGES, "/v2/queues/q/subscriptions"), ("GET", "POST"), format_time(NOW + 60))


def opened(grant: Grant = GRANT, *, key: str | None = KEY, signature: str | None = None, **request: Any) -> bool:
    asked = {"project": grant.project, "method": "GET", "path": MESSAGES, "now": NOW, **request}
    signature = sign(KEY, GRANT) if signature is None else signature
    claimed = grant._replace(project=asked["project"])._asdict()
    return signed_urls.verify(key or "", signature, now=asked["now"], **claimed) and covers(
        grant.paths, grant.methods, path=asked["path"], method=asked["method"]
    )


def test_it_opens_what_it_names() -> None:
    assert opened()
    assert opened(method="POST")
    assert opened(path="/v2/queues/q/subscriptions")
    assert opened(path=MESSAGES + "/50b68a50d6f5b8c8a7c62b01")


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "DELETE"},
        {"method": "get"},
        {"method": "GET,POST"},
        {"project": "shop2"},
        {"project": ""},
        {"now": NOW + 60},
        {"path": "/v2/queues/q"},
        {"path": "/v2/queues/q/messages/"},
        {"path": "/v2/queues/q/messages/a/b"},
        {"path": "/v2/queues/q/messagesx"},
        {"path": "/v2/queues/q/subscriptions/x"},
        {"path": "/v2/queues/q2/messages"},
        {"path": "/v2/topics/q/messages"},
        {"path": "/V2/queues/q/messages"},
        {"path": "/x/v2/queues/q/messages"},
        {"path": ""},
    ],
)
def test_it_opens_nothing_else(request_: dict[str, Any]) -> None:
    assert not opened(**request_)


@pytest.mark.parametrize(
    "grant",
    [
        GRANT._replace(project="other"),
        GRANT._replace(paths=(MESSAGES,)),
        GRANT._replace(paths=(*GRANT.paths, "/v2/queues/q/claims")),
        GRANT._replace(methods=("GET",)),
        GRANT._replace(methods=("GET", "POST", "PUT")),
        GRANT._replace(expires=format_time(NOW + 61)),
        GRANT._replace(expires=""),
    ],
)
def test_a_grant_that_was_changed_opens_nothing(grant: Grant) -> None:
    assert not opened(grant)


@pytest.mark.parametrize(
    "signature", ["", "0" * 64, "0" * 63, sign("other", GRANT), sign(KEY, GRANT).upper(), "é" * 64]
)
def test_a_wrong_signature(signature: str) -> None:
    assert not opened(signature=signature)


@pytest.mark.parametrize("key", [None, "", "Secret"])
def test_without_the_key_nothing_opens(key: str | None) -> None:
    assert not opened(key=key)
    # Not even what somebody signed with an empty key.
    assert not opened(key=key, signature=sign("", GRANT))


@pytest.mark.parametrize("expires", ["", "x", "2026-01-01", "2999-13-01T00:00:00", "2999-01-01T00:00:00Z"])
def test_an_end_that_is_none(expires: str) -> None:
    grant = GRANT._replace(expires=expires)
    assert parse_time(expires) is None
    assert not opened(grant, signature=sign(KEY, grant))


def test_times_there_and_back() -> None:
    assert format_time(NOW + 0.9) == "2023-11-14T22:13:20"
    assert parse_time("2023-11-14T22:13:20") == NOW


grants = st.builds(Grant, st.text(), st.lists(st.text()).map(tuple), st.lists(st.text()).map(tuple), st.text())


@given(grants, grants)
def test_no_two_grants_have_one_signature(one: Grant, two: Grant) -> None:
    def same(grant: Grant) -> tuple[object, ...]:
        return grant.project, list(grant.paths), list(grant.methods), grant.expires

    assert (sign(KEY, one) == sign(KEY, two)) == (same(one) == same(two))


@pytest.mark.parametrize("collection", ["/v2/queues/q/messages", "/v2/queues/q/claims", "/v2/topics/t/messages"])
def test_members_of_messages_and_claims(collection: str) -> None:
    assert covers([collection], ["GET"], path=collection + "/x", method="GET")
    assert not covers([collection], ["GET"], path=collection + "/x/y", method="GET")
    assert not covers([collection + "/x"], ["GET"], path=collection, method="GET")
