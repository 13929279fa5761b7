# SPDX-License-Identifier: Apache-2.0
"""Masking of secrets in URIs, in all spellings."""

from __future__ import annotations

import pytest

from zaqar import uris
from zaqar.model import Pool

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("redis://host:6379", "redis://host:6379"),
        ("redis://host:6379/0?dbid=1", "redis://host:6379/0?dbid=1"),
        ("redis://user@host", "redis://user@host"),
        ("redis://:s3cr3t@host", "redis://:***@host"),
        ("redis://user:s3cr3t@host:1,other:2/x?master=m", "redis://user:***@host:1,other:2/x?master=m"),
        ("redis://user:s3cr3t/with?odd#signs@x@host", "redis://user:***@host"),
        ("redis://host?redis_password=s3cr3t&dbid=1", "redis://host?redis_password=***&dbid=1"),
        ("redis://host?dbid=1&PASSWORD=s3cr3t=x", "redis://host?dbid=1&PASSWORD=***"),
        ("redis://host?p%61ssword=s3cr3t", "redis://host?p%61ssword=***"),
        ("redis://host?a=1;password=s3cr3t", "redis://host?a=***"),
        ("redis://host?redis_password=a@s3cr3t", "redis://host?redis_password=***"),
        ("redis://host#password=s3cr3t", "redis://host#password=***"),
        ("mongodb://u:s3cr3t@h/?tlsCertificateKeyFilePassword=s3cr3t", "mongodb://u:***@h/?tlsCertificateKeyFilePassword=***"),
        ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:s3cr3t", "mongodb://h/?authMechanismProperties=***"),
        ("sqlite:////var/lib/zaqar.db", "sqlite:////var/lib/zaqar.db"),
        ("user:s3cr3t@host", "user:***@host"),
        ("x://y:s3cr3t://z@host", "x:***@host"),
        ("", ""),
    ],
)  # fmt: skip
def test_passwords_are_masked(uri: str, masked: str) -> None:
    assert uris.mask(uri) == masked
    assert uris.mask(masked) == masked
    assert SECRET not in masked


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("cannot log in with s3cr3t", "redis://:s3cr3t@host"),
        ("cannot log in with a/b c", "redis://:a%2Fb%20c@host"),
        ("cannot log in with a%2Fb", "redis://:a%2Fb@host"),
        ("cannot log in with a b", "redis://host?password=a+b"),
    ],
)
def test_a_text_with_a_password_reveals_it(text: str, uri: str) -> None:
    assert uris.reveals(text, uri)
    assert not uris.reveals("host refuses the connection", uri)


def test_repr_of_a_pool_shows_no_password() -> None:
    text = repr(Pool("one", "redis://:s3cr3t@host?password=s3cr3t", 1))
    assert "s3cr3t" not in text
    assert "'one'" in text
    assert "redis://:***@host" in text


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("db.example", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("b\u00fccher.example", True),
        ("", True),
        ("a..b", False),
        ("x" * 64, False),
        ("a\0b", False),
    ],
)
def test_texts_that_can_be_looked_up_as_a_host(text: str, is_one: bool) -> None:
    assert uris.is_host(text) is is_one


@pytest.mark.parametrize(
    ("uri", "compared"),
    [
        ("REDIS://User:PassWord@Host/0", "redis://User:PassWord@Host/0"),
        ("PostgreSQL+Psycopg://h/D?A=B", "postgresql+psycopg://h/D?A=B"),
        ("redis://h?a=X://Y", "redis://h?a=X://Y"),
        ("no scheme", "no scheme"),
    ],
)
def test_the_case_of_a_scheme_is_ignored(uri: str, compared: str) -> None:
    assert uris.lower_scheme(uri) == compared
