# SPDX-License-Identifier: Apache-2.0
"""Settings, what a start refuses, forks, and a set that is away."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import mongod
from tests.conformance.scene import Scene, bodies
from tests.mongod import Members
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.mongodb import connection
from zaqar.storage.mongodb.connection import ReplicaSet, Retries
from zaqar.storage.mongodb.messages import MongoMessageStore

SECRET = "s3cr@t"


def start(**settings: Any) -> str:
    with pytest.raises(StartupError) as caught:
        ReplicaSet.open(settings, "x")
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


def test_a_server_without_a_set_is_refused(binary: str, tmp_path: Path) -> None:
    with mongod.running(tmp_path, members=0, mongod=binary) as alone:
        said = start(uri=f"mongodb://{alone.members[0].address}/")
    assert "not a replica set" in said


def test_a_start_without_a_server_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "START_PATIENCE", 1.0)
    with nobody() as port:
        said = start(uri=f"mongodb://user:{SECRET.replace('@', '%40')}@127.0.0.1:{port}/?replicaSet=x")
    assert said == "The MongoDB replica set cannot be used: no primary answers."


def test_two_may_start_at_once_and_a_second_start_is_fine(members: Members) -> None:
    for _ in range(2):
        MongoMessageStore.from_settings({"uri": members.uri, "database": "twice"}).close()


def test_no_password_in_a_repr(members: Members) -> None:
    replica_set = ReplicaSet({"uri": f"mongodb://u:{SECRET}@h/"}, "x")
    assert "s3cr" not in repr(replica_set)


def test_durability_says_how_many(store: MongoMessageStore) -> None:
    assert store.durability()["members"] == "3"
    assert "majority" in store.durability()["write_concern"]


def test_majority_and_journal_whatever_the_uri_says(members: Members) -> None:
    store = MongoMessageStore.from_settings({"uri": members.uri + "&w=0&journal=false&readPreference=secondary"})
    opened = store._set.opened
    assert opened.collection.write_concern.document == {"w": "majority", "j": True, "wtimeout": 4000}
    assert opened.collection.read_preference.mode == 0
    scene = Scene(store)
    scene.post("a")
    assert bodies(scene.listing()) == ["a"]
    store.close()


# -- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_parent_and_child_work_on_after_a_fork(scene: Scene) -> None:
    scene.post("before")
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            scene.post("child")
            ended = 0 if len(scene.listing()) >= 2 else 2
        finally:
            os._exit(ended)
    scene.post("parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(bodies(scene.listing())) == ["before", "child", "parent"]
    scene.post("after")
    assert len(scene.listing()) == 4


# -- away -------------------------------------------------------------------------------------------------------------


@contextmanager
def nobody() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "black hole"])
def test_an_absent_set_is_unavailable_within_five_seconds(listening: bool) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen(64)
        port = held.getsockname()[1]
        store = MongoMessageStore(ReplicaSet({"uri": f"mongodb://127.0.0.1:{port}/?replicaSet=x"}, "x"))
        try:
            for operation in (lambda: Scene(store), store.ping):
                begun = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    operation()
                assert time.monotonic() - begun < 5
        finally:
            store.close()
