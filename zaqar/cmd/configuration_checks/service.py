# SPDX-License-Identifier: Apache-2.0
"""Checks by making the parts of the service, as a start would, but with stores in memory."""

from __future__ import annotations

from collections.abc import Iterator

from oslo_config import cfg

from zaqar import app
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.encryption import keys as encryption_keys
from zaqar.errors import StartupError
from zaqar.policies import Authorizer
from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.store import MemoryMessageStore


def find_policy_mistakes(examined: Examined) -> Iterator[Complaint]:
    """Policy files that are missing, cannot be read, or have rules that cannot be used."""
    try:
        Authorizer(examined.conf)
    except StartupError as exc:
        yield Complaint.of(exc, "[oslo_policy] policy_file")


def find_encryption_mistakes(examined: Examined) -> Iterator[Complaint]:
    """Keys of message encryption that cannot be loaded."""
    try:
        encryption_keys.load(examined.conf)
    except StartupError as exc:
        yield Complaint.of(exc, "[transport] message_encryption_key")


def find_other_mistakes(examined: Examined) -> Iterator[Complaint]:
    """Everything else that stops the start of a part: stages, subscriber types, signing keys, the trustee and so on."""
    try:
        _build(examined.conf)
    except StartupError as exc:
        yield Complaint.of(exc, "The configuration")


def _build(conf: cfg.ConfigOpts) -> None:
    # Without metrics, whose files are those of running processes.
    conf.set_override("bind", "", "metrics")
    try:
        parts = app.build(conf, management=MemoryManagementStore(), messages=MemoryMessageStore())
        app.build_notifier(parts)
        parts.close()
    finally:
        conf.clear_override("bind", "metrics")
