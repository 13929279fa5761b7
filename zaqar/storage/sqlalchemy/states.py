# SPDX-License-Identifier: Apache-2.0
"""The states of messages and deliveries as stored, and the revision of the tables.

The stores use them. They do not import :mod:`zaqar.storage.sqlalchemy.schema`, because each process of the service
would make all tables of SQLAlchemy at its start, which only the migrations need.
"""

from __future__ import annotations

from typing import Final

from zaqar.model import DEAD, DONE, WAITING

HEAD: Final = "0012"
"""The revision of the tables in ``schema``. A test compares both with the migrations."""

READY, CLAIMED, DELAYED = 0, 1, 2
"""States of a message. Whether a message is free also depends on the clock: see ``messages`` in ``schema``."""

DELIVERY_STATES: Final = (WAITING, DONE, DEAD)
"""The state of a delivery is stored as its index in this tuple."""
