# SPDX-License-Identifier: Apache-2.0
"""Checks of logs and metrics: what they show to whom, and whether they can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from zaqar.cmd.configuration_checks.addresses import is_loopback
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.cmd.listening import configured_metrics_address
from zaqar.errors import StartupError


def find_debug(examined: Examined) -> Iterator[Complaint]:
    """Log levels with which the log may show requests and tokens."""
    conf = examined.conf
    if conf.debug:
        yield Complaint(
            "[DEFAULT] debug",
            "libraries then log requests and answers, which may hold secrets; turn it off when the problem is found.",
        )
    levels = (entry.rpartition("=") for entry in conf.default_log_levels)
    if talkative := sorted(name for name, _, level in levels if level.strip().upper() == "DEBUG"):
        yield Complaint(
            "[DEFAULT] default_log_levels",
            f"the level DEBUG of {', '.join(talkative)} may write secrets to the log.",
        )


def find_missing_places(examined: Examined) -> Iterator[Complaint]:
    """Log files that cannot be written, and a file for logging that cannot be read."""
    conf = examined.conf
    if conf.log_config_append:
        if not os.access(conf.log_config_append, os.R_OK):
            yield Complaint("[DEFAULT] log_config_append", f"{conf.log_config_append} cannot be read.", is_error=True)
        return
    path = Path(conf.log_dir or ".", conf.log_file or "zaqar.log").absolute()
    option = "[DEFAULT] log_file" if conf.log_file else "[DEFAULT] log_dir"
    if (conf.log_file or conf.log_dir) and not os.access(path if path.exists() else path.parent, os.W_OK):
        yield Complaint(option, f"{path} cannot be written to.", is_error=True)


def find_open_metrics(examined: Examined) -> Iterator[Complaint]:
    """Metrics on an address that other hosts can reach, or on none."""
    option = "[metrics] bind"
    try:
        address = configured_metrics_address(examined.conf)
    except StartupError as exc:
        yield Complaint.of(exc, option)
        return
    if address is not None and not is_loopback(address.host):
        names = ", with the names of projects and queues" if examined.conf.metrics.queues else ""
        yield Complaint(option, f"every host that reaches {address} can read the metrics{names}.")
