# SPDX-License-Identifier: Apache-2.0
"""The reference driver: it keeps the promises of :mod:`zaqar.storage.base` in the simplest code.

Its data are in the memory of one process. Read it next to the contract: the conformance suite compares the other
drivers with it.
"""

from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.store import MemoryMessageStore

__all__ = ["MemoryManagementStore", "MemoryMessageStore"]
