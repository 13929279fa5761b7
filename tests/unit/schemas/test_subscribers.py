# SPDX-License-Identifier: Apache-2.0
"""URIs of subscribers: valid ones, invalid ones, and attempts to inject data."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.errors import InvalidInput
from zaqar.schemas.subscribers import check_subscriber, normal, scheme_of, url_of

TYPES = ("http", "https", "mailto", "trust+http", "trust+https", "sms")


@pytest.mark.parametrize(
    "subscriber",
    [
        "http://example.org",
        "https://example.org:8443/a/b?c=d&e#f",
        "http://[2001:db8::1]:80/",
        "trust+http://example.org/",
        "trust+https://example.org/%0d%0a",
        "http://example.org/a@b",
        "mailto:a@example.org",
        "mailto:a.b+c@example.org?subject=Hello%20there",
        "mailto:a%2Bb@example.org?Subject=",
        "mailto:a@b%C3%BCcher.example",
        "mailto:a@xn--bcher-kva.example",
        "mailto:a@b?subject=%3D%3Futf-8%3Fq%3F%3D0A%3F%3D",
        "sms:+491234",
        "http://e/" + "x" * 1991,
    ],
)
def test_valid_subscribers(subscriber: str) -> None:
    assert check_subscriber(subscriber, types=TYPES) == subscriber


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HTTPS://Example.ORG:8443/A/b?C=d&E#F", "https://example.org:8443/A/b?C=d&E#F"),
        ("HTTP://EXAMPLE.org", "http://example.org"),
        ("http://EXAMPLE.org?X=/Y", "http://example.org?X=/Y"),
        ("http://EXAMPLE.org#X", "http://example.org#X"),
        ("Trust+HTTP://[2001:DB8::1]:80/A", "trust+http://[2001:db8::1]:80/A"),
        ("MailTo:A.b+C@Example.ORG?Subject=Hello%20There", "mailto:A.b+C@example.org?Subject=Hello%20There"),
        ("MAILTO:A@B", "mailto:A@b"),
        ("mailto://a@example.org", "mailto:a@example.org"),
        ("mailto://a@example.org?subject=//", "mailto:a@example.org?subject=//"),
        ("SMS:+49ABC", "sms:+49ABC"),
    ],
)
def test_scheme_and_host_have_no_case(given: str, kept: str) -> None:
    assert check_subscriber(given, types=TYPES) == kept
    assert normal(kept) == kept


@pytest.mark.parametrize(
    "subscriber",
    [
        *(None, 1, True, [], {}, "", " ", "x", "http", "http:", "http:/", "http://", "http:///p", "http://:80/"),
        *("ftp://example.org", "//example.org", ":", "sms:", "http ://example.org", " http://example.org"),
        *("http://example.org\n", "http://example.org/\r\nX: y", "http://example.org/\x00", "http://exämple.org/"),
        *("http://example.org\\@evil.org/", "http://u@example.org/", "http://u:p@example.org/", "http://@example.org/"),
        *("http://example.org:0/", "http://example.org:65536/", "http://example.org:x/", "http://example.org:-1/"),
        *("http://[::1/", "http://[x]/", "trust+http://", "trust+http://u:p@example.org/", "trust+mailto:a@b"),
        *(
            "mailto:",
            "mailto:a",
            "mailto:@",
            "mailto:a@",
            "mailto:@b",
            "mailto:a@b@c",
            "mailto:a@b,c@d",
            "mailto:a@b;c@d",
        ),
        *("mailto:a%0d%0aBcc:c@d", "mailto:a@b%0A", "mailto:a%20b@c", "mailto:<a@b>", 'mailto:"a"@b', "mailto:a%40b@c"),
        *("mailto:a@b?cc=c@d", "mailto:a@b?body=x", "mailto:a@b?subject=a&subject=b", "mailto:a@b?subject=a&bcc=c@d"),
        *(
            "mailto:a@b?subject=a%0d%0aBcc:c@d",
            "mailto:a@b?subject=%00",
            "mailto:a@b?subject=%ff",
            "mailto:a@b?subject",
            "mailto:a@b?subject=%E2%80%A8",
            "mailto:a@b?subject=%C2%85",
            "mailto:a@b?%73ubject=a&body=b",
        ),
        *("mailto:b%C3%BC@example.org", "mailto:%ff@b", "mailto:a@%ff", "mailto:a@-b", "mailto:a@b..c", "mailto:a@b."),
        *("mailto:=?utf-8?q?a?=@b", "mailto:-f@b", "mailto:|x@b", "mailto:/x@b", "mailto:a@b%0d", "mailto:a@b%3E"),
        *("mailto:a@%E2%80%A8b", "mailto:a@b%F0%9F%8E%89%20", "mailto:a@" + "b" * 64, "mailto:a@" + "b." * 130 + "c"),
        "http://e/" + "x" * 1992,
    ],
)
def test_invalid_subscribers(subscriber: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_subscriber(subscriber, types=TYPES)
    assert caught.value.field == "subscriber"


def test_the_operator_chooses_the_schemes() -> None:
    with pytest.raises(InvalidInput, match="https:"):
        check_subscriber("http://example.org", types=("https",))


@given(st.sampled_from(["", "http://", "mailto:", "https://a", "mailto:a@b?", "trust+http://[", "sms:"]), st.text())
def test_any_text_is_accepted_or_refused(start: str, text: str) -> None:
    with contextlib.suppress(InvalidInput):
        taken = check_subscriber(start + text, types=TYPES)
        assert taken.isascii()
        assert taken.isprintable()
        assert scheme_of(taken) in TYPES


def test_the_scheme_and_url_of_a_subscriber() -> None:
    assert scheme_of("Trust+HTTPS://example.org") == "trust+https"
    assert url_of("Trust+HTTPS://example.org/a") == "HTTPS://example.org/a"
    assert url_of("http://trust+x/") == "http://trust+x/"
