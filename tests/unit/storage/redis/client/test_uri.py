# SPDX-License-Identifier: Apache-2.0
"""URIs of Redis: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from zaqar.errors import StartupError
from zaqar.storage.redis.client.uri import RedisAddress, Tls, parse

SECRET = "s3cr3t"

MEANINGS: dict[str, dict[str, Any]] = {
    "redis://127.0.0.1:6379": {"hosts": (("127.0.0.1", 6379),)},
    "redis://redis.example.org": {"hosts": (("redis.example.org", 6379),)},
    "redis://h/": {"hosts": (("h", 6379),)},
    "redis://h/3": {"hosts": (("h", 6379),), "db": 3},
    "redis://127.0.0.1:6379?dbid=1": {"hosts": (("127.0.0.1", 6379),), "db": 1},
    "redis://h?db=1": {"hosts": (("h", 6379),), "db": 1},
    "redis://[::1]:7000": {"hosts": (("::1", 7000),)},
    "redis://h?socket_timeout=0.1": {"hosts": (("h", 6379),), "socket_timeout": 0.1},
    "redis://h?socket_timeout=": {"hosts": (("h", 6379),)},
    "redis://:p%40ss@h": {"hosts": (("h", 6379),), "password": "p@ss"},
    "redis://app:p%3Ass@h:1": {"hosts": (("h", 1),), "username": "app", "password": "p:ss"},
    "redis://app:with@sign@h": {"hosts": (("h", 6379),), "username": "app", "password": "with@sign"},
    "redis://h?redis_username=app&redis_password=p%26": {
        "hosts": (("h", 6379),),
        "username": "app",
        "password": "p&",
    },
    "redis://a+b:p+w@h?sentinel_password=&master=m+1": {
        "hosts": (("h", 26379),),
        "username": "a+b",
        "password": "p+w",
        "master": "m+1",
    },
    "redis://h?redis_password=p+w%2B%20": {"hosts": (("h", 6379),), "password": "p+w+ "},
    "redis:///path/redis.sock": {"path": "/path/redis.sock"},
    "redis:///path/redis.sock?dbid=2&socket_timeout=1": {"path": "/path/redis.sock", "db": 2, "socket_timeout": 1.0},
    "redis://app:x@/path/redis.sock": {"path": "/path/redis.sock", "username": "app", "password": "x"},
    "redis:///with%20blank.sock": {"path": "/with blank.sock"},
    "redis://a,b:26380?master=main": {"hosts": (("a", 26379), ("b", 26380)), "master": "main"},
    "redis://a?master=main&sentinel_password=x&sentinel_username=w": {
        "hosts": (("a", 26379),),
        "master": "main",
        "sentinel_username": "w",
        "sentinel_password": "x",
    },
    "redis://app:x@a,b,c/1?master=main": {
        "hosts": (("a", 26379), ("b", 26379), ("c", 26379)),
        "master": "main",
        "db": 1,
        "username": "app",
        "password": "x",
    },
    "redis://a:1,b:2?cluster=true": {"hosts": (("a", 1), ("b", 2)), "cluster": True},
    "redis://a?cluster=no": {"hosts": (("a", 6379),)},
    "rediss://h": {"hosts": (("h", 6379),), "tls": Tls()},
    "rediss://h?tls_ca=/ca.pem&tls_cert=/c.pem&tls_key=/k.pem&tls_check_hostname=false": {
        "hosts": (("h", 6379),),
        "tls": Tls("/ca.pem", "/c.pem", "/k.pem", True, False),
    },
    "rediss://a,b?cluster=1&tls_verify=off": {
        "hosts": (("a", 6379), ("b", 6379)),
        "cluster": True,
        "tls": Tls(verify=False),
    },
}

REFUSED = {
    "": "redis://",
    "redis": "redis://",
    "redis:h": "redis://",
    "http://h": "redis://",
    f"memcached://:{SECRET}@h": "redis://",
    "redis://": "neither a host",
    "redis://?dbid=1": "neither a host",
    f"redis://:{SECRET}@": "neither a host",
    "redis://h:port": "a number up to 65535",
    f"redis://:{SECRET}@h:99999": "a number up to 65535",
    "redis://h:0": "a number up to 65535",
    "redis://h:": "a number up to 65535",
    "redis://a,,b?master=m": "host is empty",
    "redis://a b": "host is empty or malformed",
    "redis://[::1": "malformed",
    "redis://a,b": "several hosts",
    "redis://a,b?cluster=false": "several hosts",
    "redis://h/name": "the number of a database",
    "redis://h/1?dbid=2": "given twice",
    "redis://h?dbid=1&db=2": "given twice",
    "redis://h?dbid=1&dbid=1": "given twice",
    "redis://h?dbid=-1": "dbid has to be",
    "redis://h?dbid=one": "dbid has to be",
    "redis://h?socket_timeout=0": "socket_timeout has to be",
    "redis://h?socket_timeout=nan": "socket_timeout has to be",
    "redis://h?socket_timeout=1e9": "socket_timeout has to be",
    "redis://h?cluster=perhaps": "cluster has to be",
    "redis://h?timeout=1": "no option 'timeout'",
    "redis://h?dbid": "name=value",
    "redis://h?dbid=1;x": "dbid has to be",
    f"redis://h?{SECRET}%20x=1": "an option after '?' is unknown",
    "redis://h?master=m&cluster=true": "exclude each other",
    "redis://h?cluster=true&dbid=1": "database 0 only",
    "redis:///s.sock?master=m": "a unix socket goes without",
    "rediss:///s.sock": "a unix socket goes without",
    "redis://h?tls_ca=/ca.pem": "go with rediss://",
    "rediss://h?tls_cert=/c.pem": "go together",
    "redis://app@h": "a user needs a password",
    f"redis://:{SECRET}@h?redis_password={SECRET}": "given twice",
    f"redis://h?sentinel_password={SECRET}": "needs master",
    f"redis://:{SECRET}#x@h": "'#'",
    "redis://h?redis_password=%ff": "name=value",
}


@pytest.mark.parametrize("uri", MEANINGS)
def test_what_it_means(uri: str) -> None:
    assert parse(uri) == RedisAddress(**MEANINGS[uri])


@pytest.mark.parametrize("uri", REFUSED)
def test_what_is_refused(uri: str) -> None:
    with pytest.raises(StartupError) as caught:
        parse(uri)
    text = str(caught.value)
    assert REFUSED[uri] in text
    assert text.endswith(".") and "\n" not in text
    assert SECRET not in text


def test_nothing_shows_the_password() -> None:
    for uri in (f"redis://app:{SECRET}@h", f"redis://h?master=m&sentinel_password={SECRET}"):
        address = parse(uri)
        assert SECRET not in repr(address) + str(address)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("redis://h", "h:6379"),
        ("redis://[::1]", "[::1]:6379"),
        ("redis:///s.sock", "/s.sock"),
        ("redis://a,b?master=m", "m of the Sentinels a:26379,b:26379"),
        ("redis://a:1?cluster=true", "the Cluster of a:1"),
    ],
)
def test_how_it_is_named_in_a_log(uri: str, text: str) -> None:
    assert str(parse(uri)) == text
