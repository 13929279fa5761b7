# SPDX-License-Identifier: Apache-2.0
"""Addresses that commands listen on, and their listening sockets. All commands that listen use it."""

from __future__ import annotations

import argparse
import os
import socket
from typing import NamedTuple

from oslo_config import cfg

from zaqar.errors import StartupError

_BACKLOG = 2048
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, these are recognised, not chosen


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Address:
        """The address; for a wildcard, which stands for all addresses of the machine, the loopback address."""
        return Address(_LOOPBACK.get(self.host, self.host), self.port)


def parse_address(text: str) -> Address:
    """The address of an option such as ``--bind``."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form HOST:PORT")
    return Address(host, int(port))


def configured_websocket_address(conf: cfg.ConfigOpts) -> Address:
    """The address in the configuration that the WebSocket server listens on."""
    group = conf["drivers:transport:websocket"]
    return Address(str(group.bind), group.port)


def configured_metrics_address(conf: cfg.ConfigOpts) -> Address | None:
    """The address of ``[metrics] bind``; None if metrics are off. Raises StartupError if it is not an address."""
    text: str = conf.metrics.bind
    try:
        return parse_address(text) if text else None
    except argparse.ArgumentTypeError as exc:
        raise StartupError(f"[metrics] bind: {exc}.") from exc


def address_of(listener: socket.socket) -> Address:
    """The address that the socket listens on."""
    return Address(*listener.getsockname()[:2])


def listen(address: Address, *, hint: str = "") -> socket.socket:
    """A socket that listens on the address. Raises StartupError; ``hint`` is added to its sentence."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = found[0][0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except socket.gaierror as exc:
        raise StartupError(f"Cannot listen on {address}: {exc.strerror}.{hint}") from exc
    except OSError as exc:
        # Take the text from the number: create_server adds the address to the text of its own error.
        raise StartupError(f"Cannot listen on {address}: {os.strerror(exc.errno or 0)}.{hint}") from exc
