# SPDX-License-Identifier: Apache-2.0
"""The durability report and its warnings, for each setting of a server that they cover."""

from __future__ import annotations

import logging

import pytest

from tests import servers
from tests.conformance.redis.conftest import OpenStore
from zaqar.errors import StartupError
from zaqar.storage.redis.client import durability
from zaqar.storage.redis.store import RedisMessageStore


@pytest.mark.parametrize(
    ("settings", "survives", "warning"),
    [
        ({}, "crash of the Redis process, power cut", None),
        ({"appendfsync": "everysec"}, "crash of the Redis process", "appendfsync is everysec"),
        ({"appendfsync": "no"}, "crash of the Redis process", "appendfsync is no"),
        ({"appendonly": "no"}, "process crash of the service", "appendonly is off"),
        ({"maxmemory-policy": "allkeys-lru"}, "power cut", "maxmemory-policy is allkeys-lru"),
    ],
    ids=["always", "everysec", "no fsync", "no append-only file", "eviction"],
)
def test_the_report_tells_what_each_setting_survives(
    own_redis: servers.Redis,
    open_store: OpenStore,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, str],
    survives: str,
    warning: str | None,
) -> None:
    for name, value in settings.items():
        own_redis.client().config_set(name, value)
    with caplog.at_level(logging.WARNING, logger="zaqar"):
        said = open_store(own_redis.uri).durability()
    assert said["survives"].endswith(survives)
    assert (warning is None) == ("warning" not in said) == (caplog.text == "")
    if warning is not None:
        assert warning in said["warning"] and warning in caplog.text


def test_the_report_warns_if_no_operation_waits_for_the_replicas(
    own_redis: servers.Redis, open_store: OpenStore
) -> None:
    replica = servers.Redis("--replicaof", "127.0.0.1", str(own_redis.program.port))
    try:
        replica.program.wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        said = open_store(own_redis.uri).durability()
        assert said["replicas"] == "1" and "wait_replicas is 0" in said["warning"]
        said = open_store(own_redis.uri, wait_replicas=1).durability()
        assert "warning" not in said and "loss of the server" in said["survives"]
    finally:
        replica.stop()


def test_the_report_of_a_cluster_covers_all_its_masters(open_store: OpenStore) -> None:
    said = open_store(servers.shared("redis-cluster").uri).durability()
    assert (said["store"], said["appendonly"], said["appendfsync"]) == ("redis cluster", "yes", "always")


def test_an_old_server_is_refused(own_redis: servers.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "OLDEST", (99, 0))
    with pytest.raises(StartupError, match=r"Redis \d+\.\d+\S* at 127\.0\.0\.1:\d+ is too old"):
        RedisMessageStore.from_settings({"uri": own_redis.uri})
