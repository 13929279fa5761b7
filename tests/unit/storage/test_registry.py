# SPDX-License-Identifier: Apache-2.0
"""URIs that cannot work: each driver says so in one sentence, to an operator at start and to whoever makes a pool."""

from __future__ import annotations

import pytest

from zaqar import conf as configuration
from zaqar.errors import StartupError
from zaqar.storage.registry import open_management_store, open_message_store

LONG_LABEL = "x" * 64

IMPOSSIBLE = {
    "redis": ["redis://a..b", f"redis://{LONG_LABEL}:1", "redis://[::1", "redis://h:port", "redis:///\0", "http://h"],
    "mongodb": ["mongodb://", "mongodb://:::/x", "mongodb://h:port", "http://h"],
    "sqlalchemy": [
        "postgresql://a..b/x",
        f"postgresql://{LONG_LABEL}/x",
        "postgresql:///x?host=a..b",
        "postgresql:///x?host=good,a..b",
        "postgresql://[::1",
        "postgresql://h:port/x",
        "postgresql+asyncpg://h/x",
        "sqlite:////tmp/\0",
        "sqlite:////nosuch/folder/x.db",
        "mysql://h/x",
        "garbage",
        "",
    ],
}


@pytest.mark.parametrize(("driver", "uri"), [(driver, uri) for driver, uris in IMPOSSIBLE.items() for uri in uris])
@pytest.mark.parametrize("store", ["message_store", "management_store"])
def test_a_uri_that_cannot_work_is_one_sentence(driver: str, uri: str, store: str) -> None:
    conf = configuration.load(default_config_files=[])
    conf.set_override(store, driver, "drivers")
    conf.set_override("uri", uri, f"drivers:{store}:{driver}")
    if driver == "sqlalchemy" and not uri:
        # Empty is as if nobody had set it: the embedded database.
        conf.set_override("state_dir", "/proc/nosuch")
    open_store = open_message_store if store == "message_store" else open_management_store
    with pytest.raises(StartupError) as caught:
        open_store(conf).close()
    assert "\n" not in str(caught.value)


def test_mongodb_fifo_has_the_options_of_mongodb(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Store:
        @classmethod
        def from_settings(cls, settings: dict[str, object]) -> None:
            opened.append(settings["uri"])

    monkeypatch.setattr("zaqar.entry_points.load", lambda namespace, name: Store)
    conf = configuration.load(default_config_files=[])
    conf.set_override("message_store", "mongodb.fifo", "drivers")
    conf.set_override("uri", "mongodb://host", "drivers:message_store:mongodb")
    open_message_store(conf)
    assert opened == ["mongodb://host"]
