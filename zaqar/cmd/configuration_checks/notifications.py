# SPDX-License-Identifier: Apache-2.0
"""Checks of notifications and confirmations: ``[notification]``."""

from __future__ import annotations

import ipaddress
import shlex
import shutil
from collections.abc import Iterator

from zaqar.cmd.configuration_checks.complaints import Complaint, Examined

_SENSITIVE = (
    ("127.0.0.1", "services that listen on the loopback address of this host"),
    ("::1", "services that listen on the loopback address of this host"),
    ("169.254.169.254", "the metadata service of the cloud, which may have credentials"),
    ("fd00:ec2::254", "the metadata service of the cloud, which may have credentials"),
    ("100.100.100.200", "the metadata service of the cloud, which may have credentials"),
    ("168.63.129.16", "the host of this virtual machine"),
)
"""Addresses that a webhook of a tenant should not reach."""


def find_open_networks(examined: Examined) -> Iterator[Complaint]:
    """Networks of ``webhook_allowed_networks`` with addresses that no webhook should reach."""
    for text in examined.conf.notification.webhook_allowed_networks:
        network = ipaddress.ip_network(text)
        reached = [services for address, services in _SENSITIVE if ipaddress.ip_address(address) in network]
        if reached:
            reason = " and ".join(dict.fromkeys(reached))
            yield Complaint(
                "[notification] webhook_allowed_networks", f"with {text} a webhook of any tenant reaches {reason}."
            )


def find_unreachable_links(examined: Examined) -> Iterator[Complaint]:
    """Confirmations with links that lead to no reachable address."""
    conf = examined.conf
    options = conf.notification
    if not options.require_confirmation or options.public_url:
        return
    wsgi = conf["drivers:transport:wsgi"]
    yield Complaint(
        "[notification] public_url",
        f"it is not set, so the links of confirmations lead to http://{wsgi.bind}:{wsgi.port}, which other hosts may "
        "not reach.",
    )


def find_mail_without_server(examined: Examined) -> Iterator[Complaint]:
    """Mail that cannot be sent, if a setting says that it is wanted."""
    options = examined.conf.notification
    if "mailto" not in {scheme.lower() for scheme in examined.conf.transport.subscriber_types}:
        return
    if options.smtp_mode == "self_local":
        if options.smtp_security == "none" and options.smtp_host not in (None, "localhost", "127.0.0.1", "::1"):
            yield Complaint("[notification] smtp_security", "with 'none' mail goes to the server without TLS.")
    elif options.require_confirmation or examined.is_set("notification", "smtp_command"):
        program = next(iter(shlex.split(options.smtp_command)), "")
        if shutil.which(program) is None:
            yield Complaint(
                "[notification] smtp_command", f"there is no program '{program}' here, so no mail can be sent."
            )
