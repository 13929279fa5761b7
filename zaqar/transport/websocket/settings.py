# SPDX-License-Identifier: Apache-2.0
"""The limits of connections: the options of ``[drivers:transport:websocket]``, read once at start and at SIGHUP."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = "drivers:transport:websocket"

FRAME_OVERHEAD = 64 * 1024
"""Bytes that a frame may have beside the largest post: the action, headers, names and the envelope of MessagePack."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds, sizes are bytes; 0 means no limit for ``requests_per_second`` and ``idle_timeout``."""

    max_frame_size: int
    max_connections: int
    max_connections_per_project: int
    requests_per_second: int
    threads: int
    ping_interval: float
    ping_timeout: float
    idle_timeout: float
    authentication_timeout: float
    write_timeout: float
    max_pending_push_size: int
    compression: bool

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Settings:
        group = conf[GROUP]
        names = set(cls.__dataclass_fields__) - {"max_frame_size"}
        size = conf.transport.max_messages_post_size + FRAME_OVERHEAD
        return cls(max_frame_size=size, **{name: group[name] for name in names})
