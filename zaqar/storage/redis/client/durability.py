# SPDX-License-Identifier: Apache-2.0
"""What "stored" survives: how the server persists and replicates, and what may be lost with that."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.wire import is_refusal

_log = logging.getLogger(__name__)

OLDEST = (6, 2)
UNKNOWN = "unknown"


def look_at_start(server: Redis) -> None:
    """Log how the server is set up, and warn where an acknowledged message may be lost.

    StartupError where it is too old or refuses the log-in. To be away is no reason not to start.
    """
    try:
        server.ping()
        found = report(server)
    except StoreUnavailable as exc:
        if is_refusal(exc.__cause__):
            raise StartupError(f"Redis at {server.address} does not let this user log in.") from exc
        return  # the log has it
    version = found["version"]
    if version != UNKNOWN and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise StartupError(f"Redis {version} at {server.address} is too old: 6.2 or later is needed.")
    _log.info("Redis at %s: %s", server.address, ", ".join(f"{key} {value}" for key, value in found.items()))
    if "warning" in found:
        _log.warning("Redis at %s: %s", server.address, found["warning"])


def report(server: Redis) -> dict[str, str]:
    """The setting of the server, or of all masters of a Cluster; what may be lost is under ``warning``."""
    infos = [_pairs(text) for text in server.ask_each(b"INFO", b"everything")]
    configured = {name: _configured(server, name) for name in ("appendfsync", "save", "maxmemory-policy")}
    appendonly = _same(_on_off(info.get("aof_enabled")) for info in infos)
    fsync = "-" if appendonly == "no" else configured["appendfsync"]
    policy = _same(info.get("maxmemory_policy", UNKNOWN) for info in infos)
    replicas = min((int(info.get("connected_slaves", 0)) for info in infos), default=0)
    found = {
        "store": "redis cluster" if server.is_cluster else "redis",
        "version": _same(info.get("redis_version", UNKNOWN) for info in infos),
        "appendonly": appendonly,
        "appendfsync": fsync,
        "save": configured["save"] or "never",
        "replicas": str(replicas),
        "wait_replicas": str(server.replicas),
        "maxmemory_policy": policy if policy != UNKNOWN else configured["maxmemory-policy"],
    }
    found["survives"] = _survives(found, server.replicas)
    if warning := _warning(found, server.replicas, replicas):
        found["warning"] = warning
    return found


def _survives(found: Mapping[str, str], waited_for: int) -> str:
    survives = ["process crash of the service"]
    if found["appendonly"] == "yes":
        survives.append("crash of the Redis process")
        if found["appendfsync"] == "always":
            survives.append("power cut")
    if waited_for:
        survives.append(f"loss of the server while one of {waited_for} replicas that have it takes over")
    return ", ".join(survives)


def _warning(found: Mapping[str, str], waited_for: int, replicas: int) -> str:
    warnings = []
    if found["appendonly"] == "no":
        warnings.append("an acknowledged message may be lost when Redis ends, for appendonly is off")
    elif found["appendonly"] == UNKNOWN or found["appendfsync"] == UNKNOWN:
        warnings.append("the server does not tell its set-up, so whether an acknowledged message survives is not known")
    elif found["appendfsync"] != "always":
        fsync = found["appendfsync"]
        warnings.append(f"an acknowledged message may be lost in a power cut, for appendfsync is {fsync}")
    if replicas and not waited_for:
        warnings.append("an acknowledged message may be lost in a fail-over, for wait_replicas is 0")
    if waited_for > replicas:
        warnings.append(f"nothing can be acknowledged, for there are {replicas} of {waited_for} replicas to wait for")
    if found["maxmemory_policy"] not in ("noeviction", UNKNOWN):
        warnings.append(f"messages may vanish when memory is full, for maxmemory-policy is {found['maxmemory_policy']}")
    return "; ".join(warnings)


def _configured(server: Redis, name: str) -> str:
    """A setting; managed servers may refuse to tell."""
    return _same(
        UNKNOWN if answer is None or len(answer) < 2 else answer[1].decode(errors="replace")
        for answer in server.ask_each(b"CONFIG", b"GET", name)
    )


def _pairs(text: bytes | None) -> dict[str, str]:
    lines = (text or b"").decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _on_off(flag: str | None) -> str:
    return {"1": "yes", "0": "no"}.get(flag or "", UNKNOWN)


def _same(values: Iterable[str]) -> str:
    """The value that all nodes have, or those that they have."""
    return ", ".join(sorted(set(values)))
