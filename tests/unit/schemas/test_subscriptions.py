# SPDX-License-Identifier: Apache-2.0
"""The wire form of subscriptions. The texts of errors are tested in the tests of the API."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.workers import make_limits
from zaqar.errors import InvalidInput
from zaqar.limits import YEAR_10000
from zaqar.model import CONFIRMED, REFUSED, Secret, Subscription
from zaqar.schemas.subscriptions import (
    MOST_BYTES_OF_OPTIONS,
    MOST_PLACES,
    PLACE_OF_THE_MESSAGE,
    Wanted,
    check_end,
    check_options_for,
    is_subscription_id,
    parse_change,
    parse_confirmation,
    parse_creation,
    parse_grace,
    shown,
)

LIMITS = make_limits()
MAIL = "mailto:a@example.org"


def creation(**fields: Any) -> Wanted:
    return parse_creation(
        json.dumps({"subscriber": MAIL, **fields}).encode(), source="q", project="shop", limits=LIMITS
    )


def refused(**options: Any) -> str:
    """Return the field in the error of a creation with these options."""
    with pytest.raises(InvalidInput) as caught:
        creation(options=options)
    return caught.value.field


def test_a_creation() -> None:
    assert creation() == Wanted(MAIL, None, None)
    assert creation(ttl=60, options={"a": 1}, more=1) == Wanted(MAIL, 60, {"a": 1})
    assert creation(ttl=220_367_260_800).ttl == 220_367_260_800


@pytest.mark.parametrize("now", [0.0, 1_700_000_000.0, 1_700_000_000.5])
def test_the_end_is_before_the_year_10000(now: float) -> None:
    longest = YEAR_10000 - int(now) - 1
    for ttl in (None, 60, 2**31, 2**36, longest):
        check_end(ttl, now)
    for ttl in (longest + 1, YEAR_10000):
        with pytest.raises(InvalidInput) as caught:
            check_end(ttl, now)
        assert caught.value.field == "ttl"
    assert datetime.fromtimestamp(now + longest, UTC).year == 9999


def test_a_change_needs_at_least_one_field() -> None:
    assert parse_change(b'{"ttl":60}', source="q", limits=LIMITS) == Wanted(None, 60, None)
    for raw in (b"{}", b'{"tll":60}', b'{"ttl":null}'):
        with pytest.raises(InvalidInput):
            parse_change(raw, source="q", limits=LIMITS)


@pytest.mark.parametrize(
    "name",
    [
        *("X-A", "x_a", "!#$%&'*+-.^_`|~", "a" * 128),
        # Headers that carry their own proof, or that do not name a caller.
        *("Authorization", "X-Auth-Token", "Cookie", "X-Api-Key", "Content-Type", "Accept", "User-Agent"),
        *(
            "OpenStack-API-Version",
            "X-Request-ID",
            "traceparent",
            "X-Hub-Signature",
            "Idempotency-Key",
            "Urlx",
            "Curl-A",
        ),
    ],
)
def test_valid_names_of_headers(name: str) -> None:
    assert creation(options={"post_headers": {name: "v"}}).options == {"post_headers": {name: "v"}}


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a:", "a\t", "a\r\nb", "(a)", "ä", "a" * 129, "{", "a/b"),
        *("HOST", "Content-Length", "content-encoding", "transfer-encoding", "Connection", "keep-alive", "TE"),
        *("Trailer", "Upgrade", "Expect", "HTTP2-Settings", "Proxy-Connection", "Proxy-Authorization"),
        *("webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"),
        # Headers of keystonemiddleware, in the spellings that WSGI and older servers treat as equal.
        *("X-Project-Id", "X_PROJECT_ID", "x-project_id", "X.Project.Id", "X-Project-Name", "X-Project-Domain-Id"),
        *("X-User-Id", "X-User-Name", "X-User-Domain-Name", "X-Roles", "X_Roles", "X-Role", "X-User", "X-Tenant-Id"),
        *("X-Tenant", "X-Tenant-Name", "X-Domain-Id", "X-Domain-Name", "X-Identity-Status", "X-Is-Admin-Project"),
        *("X-Service-Roles", "X-Service-Token", "X-Service-Identity-Status", "X-Service-Catalog"),
        *("OpenStack-System-Scope", "Openstack_System_Scope", "X-Subject-Token", "X-Remote-User", "Remote-User"),
        # Pre-signed URLs and the client of this service.
        *("URL-Signature", "url-expires", "URL_Paths", "URL-Methods", "URL-Anything", "Client-ID", "CLIENT_ID"),
        # Metadata services.
        *("Metadata-Flavor", "METADATA_FLAVOR", "Metadata", "X-aws-ec2-metadata-token", "X-Metadata-Token"),
        *("X-aws-ec2-metadata-token-ttl-seconds", "X-Google-Metadata-Request", "X-Instance-ID-Signature"),
        *("X-Instance-ID", "X-Neutron-Router-ID", "X-Metadata-Provider"),
        # Proxies.
        *("X-Forwarded-For", "X-Forwarded-User", "X_Forwarded_Proto", "X-Forwarded", "Forwarded", "Via", "X-Real-IP"),
        *("Proxy-Anything", "True-Client-IP", "X-Original-URL", "X-HTTP-Method-Override", "X-Auth-Request-Email"),
        *("SSL-Client-Verify", "X-SSL-Client-DN", "X-Client-Cert", "OIDC-Claim-Sub"),
    ],
)
def test_invalid_names_of_headers(name: str) -> None:
    assert refused(post_headers={name: "v"}).startswith("options.post_headers")


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "~" * 4096, "Bearer x.y-z"])
def test_valid_values_of_headers(value: str) -> None:
    assert creation(options={"post_headers": {"A": value}}).options == {"post_headers": {"A": value}}


@pytest.mark.parametrize(
    "value", ["\n", "a\rb", "a\r\nHost: b", "\x00", "\x7f", "é", " a", "a ", "~" * 4097, 1, None, []]
)
def test_invalid_values_of_headers(value: Any) -> None:
    assert refused(post_headers={"A": value}).startswith("options.post_headers")


def test_a_header_is_given_once() -> None:
    for one, other in (("X-A", "x-a"), ("X-A", "X_A"), ("Content-Type", "content_type")):
        assert refused(post_headers={one: "v", other: "v"}).startswith("options.post_headers")


def test_there_are_not_too_many_headers() -> None:
    assert refused(post_headers={f"A{n}": "" for n in range(51)}) == "options.post_headers"


@pytest.mark.parametrize("name", ["from", "subject"])
@pytest.mark.parametrize("text", ["a\r\nBcc: b", "a\nb", "\x00", "a\u2028b", "x" * 999])
def test_fields_of_a_mail_must_be_one_line(name: str, text: str) -> None:
    assert refused(**{name: text}) == f"options.{name}"


@pytest.mark.parametrize(
    "sender",
    [
        *(
            "me",
            "<>",
            "me@example.org, you@example.org",
            "Me <me@example.org> x",
            "Me <me@example.org",
            "m e@example.org",
        ),
        *("=?utf-8?q?a?=@example.org", "bü@example.org", "me@exa mple.org", "Me <me@example.org>, <you@example.org>"),
    ],
)
def test_the_sender_of_a_mail_is_one_address(sender: str) -> None:
    assert refused(**{"from": sender}) == "options.from"
    # A webhook takes no trust.
    check_options_for({"from": sender}, "https://example.org", project="shop")
    with pytest.raises(InvalidInput, match=r"options\.from"):
        check_options_for({"from": sender}, MAIL, project="shop")


@pytest.mark.parametrize("sender", ["me@example.org", "Me <me@example.org>", "Größe <me@bücher.example>", ""])
def test_valid_senders(sender: str) -> None:
    assert creation(options={"from": sender}).options == {"from": sender}


def test_the_size_of_options() -> None:
    fits = {"k": "x" * (MOST_BYTES_OF_OPTIONS - len('{"k":""}'))}
    assert creation(options=fits).options == fits
    assert refused(k=fits["k"] + "x") == "options"


def test_the_field_that_is_named() -> None:
    assert refused(post_data=1) == "options.post_data"
    for count in (MOST_PLACES + 1, 3000):
        assert refused(post_data=PLACE_OF_THE_MESSAGE * count) == "options.post_data"
    assert refused(_retry_policy={"minimum_delay": 0}) == "options._retry_policy.minimum_delay"
    assert refused(_retry_policy={"minimum_delay": 30}) == "options._retry_policy.maximum_delay"
    assert refused(filter={"a": [{"x": 1}]}).startswith("options.filter")


TRUSTING = "trust+https://example.org"


def refused_for(subscriber: str, **options: Any) -> str | None:
    try:
        check_options_for(options, subscriber, project="shop")
    except InvalidInput as exc:
        return exc.field
    return None


def test_a_header_must_not_replace_the_token_of_a_trust() -> None:
    headers = {"x-auth-TOKEN": "mine"}
    assert refused_for("https://example.org", post_headers=headers) is None
    assert refused_for(TRUSTING, post_headers=headers) == "options.post_headers.x-auth-TOKEN"


@pytest.mark.parametrize("name", ["X-Project-ID", "x_project.id"])
def test_the_project_header_needs_a_token_and_must_be_the_own_project(name: str) -> None:
    own, other = {name: "shop"}, {name: "other"}
    assert refused_for(TRUSTING, post_headers=own) is None
    assert refused_for(TRUSTING, post_headers=other) == f"options.post_headers.{name}"
    for headers in (own, other):
        assert refused_for("https://example.org", post_headers=headers) == f"options.post_headers.'{name}'"


def test_the_client_id_header_needs_a_token() -> None:
    headers = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c"}
    assert refused_for(TRUSTING, post_headers=headers) is None
    assert refused_for("https://example.org", post_headers=headers) == "options.post_headers.'Client-ID'"


@pytest.mark.parametrize("name", ["X-Roles", "X-User-Id", "X-Tenant-Id", "X-Project-Name", "X-Forwarded-For", "Host"])
def test_a_token_allows_no_other_reserved_header(name: str) -> None:
    assert refused_for(TRUSTING, post_headers={name: "shop"}) == f"options.post_headers.'{name}'"


def test_a_trust_id_needs_a_subscriber_with_a_token() -> None:
    assert refused_for(TRUSTING, trust_id="0123456789abcdefABCDEF_-") is None
    for subscriber in ("https://example.org", MAIL):
        assert refused_for(subscriber, trust_id="a") == "options.trust_id"
    for wrong in ("", "a/b", "../x", "a" * 65, "a\n", 1, None, ["a"]):
        assert refused_for(TRUSTING, trust_id=wrong) == "options.trust_id"


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 23, "0" * 25, "0" * 23 + "g", "A" * 24, "0" * 24 + "\n", "\u0660" * 24]
)
def test_invalid_ids(text: str) -> None:
    assert not is_subscription_id(text)


NAMES = [
    "subscriber",
    "ttl",
    "options",
    "post_headers",
    "filter",
    "_retry_policy",
    "from",
    "dead_letter_queue",
    "grace",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=10,
)


@given(json_values)
@settings(max_examples=50)
def test_any_value_is_accepted_or_refused(value: Any) -> None:
    for document in (value, {"subscriber": MAIL, "options": value}, {"subscriber": value}, {"ttl": value}):
        raw = json.dumps(document).encode()
        for parse in (
            lambda raw: parse_creation(raw, source="q", project="shop", limits=LIMITS),
            lambda raw: parse_change(raw, source="q", limits=LIMITS),
            parse_confirmation,
            parse_grace,
        ):
            with contextlib.suppress(InvalidInput):
                parse(raw)


def test_the_answer_of_a_subscription() -> None:
    secret = Secret("whsec_x")
    one = Subscription("i" * 24, "u" * 24, "p", "queue", "q", MAIL, 60, 10.0, 70.0, {"a": 1}, CONFIRMED, (secret,))
    assert shown(one, 15.5) == {
        "id": "i" * 24,
        "source": "q",
        "subscriber": MAIL,
        "ttl": 60,
        "age": 5,
        "options": {"a": 1},
        "confirmed": True,
    }
    assert shown(replace(one, state=REFUSED), 10.0)["confirmed"] is False
