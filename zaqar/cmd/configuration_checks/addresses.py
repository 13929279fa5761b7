# SPDX-License-Identifier: Apache-2.0
"""Which addresses other hosts can reach. Several checks ask it."""

from __future__ import annotations

import ipaddress

from zaqar.cmd.configuration_checks.complaints import Examined

TRANSPORTS = ("drivers:transport:wsgi", "drivers:transport:websocket")
"""The groups with the addresses that the service listens on."""


def is_loopback(host: str) -> bool:
    """Whether only processes of this host reach the address. False for any name but localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def open_transports(examined: Examined) -> list[str]:
    """The addresses of the transports that other hosts can reach, each with its option."""
    binds = {group: str(examined.conf[group].bind) for group in TRANSPORTS}
    return [f"[{group}] bind = {bind}" for group, bind in binds.items() if not is_loopback(bind)]
