# SPDX-License-Identifier: Apache-2.0
"""Replaces the methods of a store and of its parts, for tests that count calls or act between them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from zaqar.storage.base import ManagementStore, MessageStore

Operation = Callable[..., Any]


def replace_methods(store: ManagementStore | MessageStore, replacement: Callable[[str, Operation], Operation]) -> None:
    """Replace each method of the contract by ``replacement(name, method)``.

    The name is like "claims.renew" for a method of a part, and like "ping" for one of the store itself.
    """
    contract: type[MessageStore | ManagementStore] = (
        MessageStore if isinstance(store, MessageStore) else ManagementStore
    )
    for part, part_contract in [("", contract), *parts_of(contract)]:
        holder = getattr(store, part) if part else store
        for method in part_contract.__abstractmethods__:
            name = f"{part}.{method}" if part else method
            setattr(holder, method, replacement(name, getattr(holder, method)))


def parts_of(contract: type[MessageStore | ManagementStore]) -> Iterator[tuple[str, Any]]:
    """The name of each part of such a store, and its contract."""
    hints = typing.get_type_hints(contract).items()
    return ((name, part) for name, part in hints if inspect.isclass(part))
