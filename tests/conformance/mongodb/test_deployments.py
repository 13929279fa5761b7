# SPDX-License-Identifier: Apache-2.0
"""A replica set that demands TLS and a login (SCRAM): a user with the documented role can do everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pymongo
import pytest
from pymongo.errors import OperationFailure

from tests import servers
from tests.conformance.all_operations import (
    assert_all_management_operations_work,
    assert_all_operations_work,
    assert_wakeups_work,
)
from tests.conformance.queue_client import QueueClient
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.mongodb.management import MongoManagementStore
from zaqar.storage.mongodb.store import MongoMessageStore

RUNS_WITH = "mongodb"
PAGE = (Path(__file__).parents[3] / "docs" / "stores" / "mongodb.rst").read_text()
PASSWORD = "p@ss:w/ord"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> servers.Certificates:
    return servers.own(lambda: servers.Certificates.make(tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module")
def secured(certificates: servers.Certificates) -> Iterator[servers.MongoSet]:
    """A set of one member with the user of the documentation in the database ``zaqar``."""
    server = servers.own(lambda: servers.MongoSet(1, setup=servers.MongoSetup(certificates, "of-the-administrator")))
    documented = re.search(r'createUser\(\{user: "zaqar", pwd: "secret", roles: \["(\w+)"\]\}\)', PAGE)
    assert documented is not None
    with pymongo.MongoClient(
        server.uri, username="root", password="of-the-administrator", tls=True, tlsCAFile=str(certificates.certificate)
    ) as client:
        client["zaqar"].command("createUser", "zaqar", pwd=PASSWORD, roles=[documented[1]])
    yield server
    server.stop()


@pytest.fixture
def uri(secured: servers.MongoSet) -> str:
    return secured.uri.replace("mongodb://", f"mongodb://zaqar:{quote(PASSWORD, safe='')}@") + "&authSource=zaqar"


def test_all_operations_work_for_a_user_with_the_documented_role(uri: str, certificates: servers.Certificates) -> None:
    settings = {"uri": uri, "database": "zaqar", "ssl_ca_certs": str(certificates.certificate)}
    store = MongoMessageStore.from_settings({**settings, "change_stream": True})
    assert_all_operations_work(store)
    assert_wakeups_work(store)
    management = MongoManagementStore.from_settings(settings)
    assert_all_management_operations_work(management)
    store.close()
    management.close()


def test_tls_is_set_in_the_uri_as_well(uri: str, certificates: servers.Certificates) -> None:
    store = MongoMessageStore.from_settings({"uri": f"{uri}&tls=true&tlsCAFile={certificates.certificate}"})
    store.ping()
    store.close()


def test_the_user_may_end_its_own_abandoned_transactions(uri: str, certificates: servers.Certificates) -> None:
    settings = {"uri": uri, "database": "zaqar", "ssl_ca_certs": str(certificates.certificate)}
    store = MongoMessageStore.from_settings(settings)
    orders = QueueClient(store)
    orders.post("a")
    tls = {"tls": True, "tlsCAFile": str(certificates.certificate)}
    with (
        pymongo.MongoClient(uri, appname="zaqar/zaqar", **tls) as abandoned,
        abandoned.start_session() as session,
    ):
        session.start_transaction()
        changed = abandoned["zaqar"]["message_store"].update_many({}, {"$set": {"touched": 1}}, session=session)
        assert changed.modified_count > 0
        orders.post("b")
        with pytest.raises(OperationFailure, match="has been aborted"):
            session.commit_transaction()
    orders.drop()
    store.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda uri: uri.replace("zaqar:", "zaqar:not"), StartupError),
        (lambda uri: uri.replace("&authSource=zaqar", ""), StartupError),
        (lambda uri: re.sub("//.*@", "//", uri).replace("&authSource=zaqar", ""), StartupError),
    ],
    ids=["another password", "another database of users", "no login"],
)
def test_a_wrong_login_ends_the_start(change, error, uri: str, certificates: servers.Certificates) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"cannot be used"):
        MongoMessageStore.from_settings({"uri": change(uri), "ssl_ca_certs": str(certificates.certificate)})


def test_a_connection_without_tls_or_the_right_authority_is_refused(uri: str) -> None:
    for refused in (uri, f"{uri}&tls=true"):
        store = MongoMessageStore.from_settings({"uri": refused})
        with pytest.raises(StoreUnavailable):
            store.ping()
        store.close()
