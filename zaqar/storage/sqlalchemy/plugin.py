# SPDX-License-Identifier: Apache-2.0
"""What the entry points named ``sqlalchemy`` load: the stores, opened as their settings say."""

from collections.abc import Mapping
from typing import Any

from zaqar.storage.sqlalchemy.connection import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.messages import SqlMessageStore


def management_store(settings: Mapping[str, Any]) -> SqlManagementStore:
    """The control plane at ``settings["uri"]``; StartupError where it cannot be opened or has another schema."""
    return SqlManagementStore(_open(settings))


def message_store(settings: Mapping[str, Any]) -> SqlMessageStore:
    """The data plane at ``settings["uri"]``; StartupError as above."""
    return SqlMessageStore(_open(settings))


def _open(settings: Mapping[str, Any]) -> Database:
    database = Database.open(settings["uri"], embedded=settings["embedded"], synchronous=settings["synchronous"])
    database.prepare()
    return database
