# SPDX-License-Identifier: Apache-2.0
"""The limits of connections: the options of ``[drivers:transport:websocket]``, read once at start and at SIGHUP."""

from __future__ import annotations

from dataclasses import dataclass, replace

from oslo_config import cfg

GROUP = "drivers:transport:websocket"

_OTHER_FILES = 256
"""Open files that are not connections of clients: connections to stores, Keystone and notifiers, and the log."""

_CONNECTIONS_PER_HANDSHAKE = 10
_MIN_HANDSHAKES = 16

UNAUTHENTICATED_FRAME_SIZE = 64 * 1024
"""Bytes that a frame of a client may have before the client has authenticated, if authentication is on."""

FRAME_OVERHEAD = 64 * 1024
"""Bytes by which a frame may be larger than the largest post, for the action, the headers and the names of fields."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of connections. Times are in seconds and sizes in bytes.

    0 means no limit for ``requests_per_second`` and ``idle_timeout``.
    """

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
    max_buffered_size: int
    compression: bool

    @property
    def max_handshakes(self) -> int:
        """Number of connections that may be in their handshake or being refused, in addition to open ones."""
        return max(_MIN_HANDSHAKES, self.max_connections // _CONNECTIONS_PER_HANDSHAKE)

    @property
    def open_files(self) -> int:
        """Number of open files that the process needs."""
        return self.max_connections + self.max_handshakes + _OTHER_FILES

    def within(self, open_files: int) -> Settings:
        """A copy with as many connections as ``open_files`` open files allow, and at least one."""
        rest = open_files - _OTHER_FILES
        most = min(rest * _CONNECTIONS_PER_HANDSHAKE // (_CONNECTIONS_PER_HANDSHAKE + 1), rest - _MIN_HANDSHAKES)
        return replace(self, max_connections=max(1, min(self.max_connections, most)))

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Settings:
        group = conf[GROUP]
        names = set(cls.__dataclass_fields__) - {"max_frame_size"}
        size = conf.transport.max_messages_post_size + FRAME_OVERHEAD
        return cls(max_frame_size=size, **{name: group[name] for name in names})
