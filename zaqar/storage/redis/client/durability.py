# SPDX-License-Identifier: Apache-2.0
"""How the server persists and replicates, and what may be lost with that; for the health report and the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import is_refusal

_log = logging.getLogger(__name__)

OLDEST = (6, 2)
UNKNOWN = "unknown"


def check_at_start(client: RedisClient) -> None:
    """Log how the server is set up, and warn if an acknowledged message may be lost.

    Raises StartupError if the server is too old or refuses the log-in. If it is away, the service starts nevertheless.
    """
    try:
        client.ping()
        found = report(client)
    except StoreUnavailable as exc:
        if is_refusal(exc.__cause__):
            raise StartupError(f"Redis at {client.address} does not let this user log in.") from exc
        return  # Outage has logged it
    version = found["version"]
    if version != UNKNOWN and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise StartupError(f"Redis {version} at {client.address} is too old: 6.2 or later is needed.")
    _log.info("Redis at %s: %s", client.address, ", ".join(f"{key} {value}" for key, value in found.items()))
    if "warning" in found:
        _log.warning("Redis at %s: %s", client.address, found["warning"])


def report(client: RedisClient) -> dict[str, str]:
    """The settings of the server, or of all masters of a Cluster. ``warning`` tells what may be lost, if anything."""
    infos = [_pairs(text) for text in client.command_on_each_master(b"INFO", b"everything")]
    configured = {name: _configured(client, name) for name in ("appendfsync", "save", "maxmemory-policy")}
    appendonly = _same(_on_off(info.get("aof_enabled")) for info in infos)
    fsync = "-" if appendonly == "no" else configured["appendfsync"]
    policy = _same(info.get("maxmemory_policy", UNKNOWN) for info in infos)
    replicas = min((int(info.get("connected_slaves", 0)) for info in infos), default=0)
    found = {
        "store": "redis cluster" if client.is_cluster else "redis",
        "version": _same(info.get("redis_version", UNKNOWN) for info in infos),
        "appendonly": appendonly,
        "appendfsync": fsync,
        "save": configured["save"] or "never",
        "replicas": str(replicas),
        "wait_replicas": str(client.replicas),
        "maxmemory_policy": policy if policy != UNKNOWN else configured["maxmemory-policy"],
    }
    found["survives"] = _survives(found, client.replicas)
    if warning := _warning(found, client.replicas, replicas):
        found["warning"] = warning
    return found


def _survives(found: Mapping[str, str], wait_replicas: int) -> str:
    survives = ["process crash of the service"]
    if found["appendonly"] == "yes":
        survives.append("crash of the Redis process")
        if found["appendfsync"] == "always":
            survives.append("power cut")
    if wait_replicas:
        survives.append(f"loss of the server while one of {wait_replicas} replicas that have it takes over")
    return ", ".join(survives)


def _warning(found: Mapping[str, str], wait_replicas: int, replicas: int) -> str:
    warnings = []
    if found["appendonly"] == "no":
        warnings.append("an acknowledged message may be lost when Redis ends, for appendonly is off")
    elif found["appendonly"] == UNKNOWN or found["appendfsync"] == UNKNOWN:
        warnings.append("the server does not tell its set-up, so whether an acknowledged message survives is not known")
    elif found["appendfsync"] != "always":
        fsync = found["appendfsync"]
        warnings.append(f"an acknowledged message may be lost in a power cut, for appendfsync is {fsync}")
    if replicas and not wait_replicas:
        warnings.append("an acknowledged message may be lost in a fail-over, for wait_replicas is 0")
    if wait_replicas > replicas:
        warnings.append(
            f"nothing can be acknowledged, for there are {replicas} of {wait_replicas} replicas to wait for"
        )
    if found["maxmemory_policy"] not in ("noeviction", UNKNOWN):
        warnings.append(f"messages may vanish when memory is full, for maxmemory-policy is {found['maxmemory_policy']}")
    return "; ".join(warnings)


def _configured(client: RedisClient, name: str) -> str:
    """A setting of the server; a managed server may refuse to tell it."""
    return _same(
        UNKNOWN if answer is None or len(answer) < 2 else answer[1].decode(errors="replace")
        for answer in client.command_on_each_master(b"CONFIG", b"GET", name)
    )


def _pairs(text: bytes | None) -> dict[str, str]:
    lines = (text or b"").decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _on_off(flag: str | None) -> str:
    return {"1": "yes", "0": "no"}.get(flag or "", UNKNOWN)


def _same(values: Iterable[str]) -> str:
    """The value that all nodes have, or each of the values if they differ."""
    return ", ".join(sorted(set(values)))
