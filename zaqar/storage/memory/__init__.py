# SPDX-License-Identifier: Apache-2.0
"""The reference driver: the promises in the simplest code, kept in the memory of one process."""

from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.messages import MemoryMessageStore

__all__ = ["MemoryManagementStore", "MemoryMessageStore"]
