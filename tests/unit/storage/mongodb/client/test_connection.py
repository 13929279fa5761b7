# SPDX-License-Identifier: Apache-2.0
"""Settings, and what a start refuses without asking anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zaqar.errors import StartupError
from zaqar.storage.mongodb.client import connection
from zaqar.storage.mongodb.client.connection import ReplicaSet, Retries

SECRET = "s3cr@t"


def start(**settings: Any) -> str:
    with pytest.raises(StartupError) as caught:
        ReplicaSet.open(settings, {"x": ()})
    return str(caught.value)


@pytest.mark.parametrize("uri", [None, ""])
def test_no_uri_is_said(uri: str | None) -> None:
    assert "no uri" in start(uri=uri)


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://user:{SECRET}@host:27017/",
        f"mongodb://user:{SECRET}@host:port/",
        "mongodb://user:s3cr%40t@host/?tls=maybe&w=s3cr",
        f"http://user:{SECRET}@host/",
    ],
)
def test_a_bad_uri_is_refused_without_its_password(uri: str) -> None:
    said = start(uri=uri)
    assert "wrong" in said
    assert "s3cr" not in said


def test_a_missing_certificate_is_said(tmp_path: Path) -> None:
    assert "wrong" in start(uri="mongodb://127.0.0.1/", ssl_ca_certs=str(tmp_path / "absent.pem"))
    assert "wrong" in start(
        uri="mongodb://127.0.0.1/", ssl_certfile=str(tmp_path / "a.pem"), ssl_keyfile=str(tmp_path / "b.pem")
    )


def test_ssl_options_become_those_of_the_client(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text("KEY")
    certificate.write_text("CERTIFICATE\n")
    files = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate), "ssl_ca_certs": "ca.pem"}
    with connection._tls_options({**files, "ssl_cert_reqs": "CERT_NONE"}, encrypted=False) as options:
        both = Path(options.pop("tlsCertificateKeyFile"))
        assert both.read_text() == "KEY\nCERTIFICATE\n" or both.read_text() == "CERTIFICATE\nKEY\n"
        assert both.stat().st_mode & 0o077 == 0
        assert options == {"tlsCAFile": "ca.pem", "tlsAllowInvalidCertificates": True}
    assert not both.exists()
    with connection._tls_options({"ssl_certfile": "one.pem"}, encrypted=False) as options:
        assert options == {"tlsCertificateKeyFile": "one.pem"}
    with connection._tls_options({"ssl_cert_reqs": "CERT_REQUIRED"}, encrypted=True) as options:
        assert options == {}


def test_an_unencrypted_set_needs_no_certificates() -> None:
    with connection._tls_options({"ssl_cert_reqs": "CERT_NONE"}, encrypted=False) as options:
        assert options == {}


def test_retries_are_those_of_the_options() -> None:
    assert Retries.from_settings({}) == Retries()
    given = {"max_attempts": 3, "max_retry_sleep": 0.5, "max_retry_jitter": None, "reconnect_sleep": 0.0}
    assert Retries.from_settings(given) == Retries(attempts=3, longest_pause=0.5, reconnect_pause=0.0)


def test_no_password_in_a_repr() -> None:
    replica_set = ReplicaSet({"uri": f"mongodb://u:{SECRET}@h/"}, {"x": ()})
    assert "s3cr" not in repr(replica_set)


@pytest.mark.parametrize(
    ("options", "settings", "most", "idle"),
    [
        ("", {}, 50, 60),
        ("", {"connections": 7}, 7, 60),
        ("?maxPoolSize=9", {"connections": 7}, 9, 60),
        ("?maxPoolSize=9&maxIdleTimeMS=5000", {}, 9, 5),
        ("", {"connections": 7, "change_stream": True}, 8, 60),
        ("?maxpoolsize=9", {"change_stream": True}, 10, 60),
        ("?maxPoolSize=0", {"change_stream": True}, 0, 60),
    ],
)
def test_connections_are_bounded_unless_the_uri_says_otherwise(
    options: str, settings: dict[str, Any], most: int, idle: int
) -> None:
    client = connection._make_client({"uri": f"mongodb://127.0.0.1:1/{options}", **settings}, "test")
    pool = client.options.pool_options
    client.close()
    assert (pool.max_pool_size, pool.max_idle_time_seconds) == (most, idle)
