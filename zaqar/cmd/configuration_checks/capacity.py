# SPDX-License-Identifier: Apache-2.0
"""Checks of numbers that the system or a supervisor of services limits: open files, and the time to end."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from zaqar.cmd import open_files
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.cmd.server.supervisor import DRAIN_SECONDS
from zaqar.limits import Limits
from zaqar.transport.websocket.settings import GROUP, Settings

SHORTEST_PATIENCE = 30.0
"""Seconds that Kubernetes gives a container to end, unless terminationGracePeriodSeconds says otherwise."""


def find_few_files(examined: Examined) -> Iterator[Complaint]:
    """More connections than the limit of open files allows."""
    limits, most = Limits.from_conf(examined.conf), most_files()
    needed = {
        "[transport] max_waiting_clients, max_streams": limits.max_waiting_clients
        + limits.max_streams
        + open_files.OTHER_CONNECTIONS
        + open_files.OTHER_FILES,
        f"[{GROUP}] max_connections": Settings.from_conf(examined.conf).open_files,
    }
    for option, files in needed.items():
        if files > most:
            yield Complaint(
                option, f"a process needs {files} open files for them, and may have {most} (ulimit -Hn, LimitNOFILE)."
            )


def most_files() -> float:
    """The number of open files that a process may have at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard


def find_long_drain(examined: Examined) -> Iterator[Complaint]:
    """A delay after which a supervisor of services has killed the server."""
    seconds = examined.conf.drain_delay + DRAIN_SECONDS
    if seconds > SHORTEST_PATIENCE:
        yield Complaint(
            "[DEFAULT] drain_delay",
            f"the server may take {seconds:g} s to end, and Kubernetes kills it after {SHORTEST_PATIENCE:g} s unless "
            "terminationGracePeriodSeconds is longer, systemd after TimeoutStopSec.",
        )
