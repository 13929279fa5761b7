# SPDX-License-Identifier: Apache-2.0
"""The statements of an ``update`` command, of which nearly every write of the driver is made.

One such command changes any number of documents of a collection, in one transaction. The server answers how many
documents its statements matched or inserted. Each statement says in its query what the operation has read before, so a
smaller number than expected means that something has changed in between; see ``Transaction.update``.

Conditions on ids, which nearly every statement has, are made here too.
"""

from __future__ import annotations

from collections.abc import Sequence

from zaqar.storage.mongodb.client.connection import Document

_AFTER_SLASH = "0"
"""The character after "/"."""


def statement(query: Document, change: Document, *, many: bool = False, upsert: bool = False) -> Document:
    return {"q": query, "u": change, "multi": many, "upsert": upsert}


def put(document: Document) -> Document:
    """Insert the document, or replace the one that has its id."""
    return statement({"_id": document["_id"]}, document, upsert=True)


def insert_if_absent(document: Document) -> Document:
    """Insert the document unless there is one that has its id. Either way it counts as one."""
    rest = {name: value for name, value in document.items() if name != "_id"}
    return statement({"_id": document["_id"]}, {"$setOnInsert": rest}, upsert=True)


def under(prefix: str) -> Document:
    """A condition for all ids that begin with the prefix and a slash."""
    return {"$gte": f"{prefix}/", "$lt": f"{prefix}{_AFTER_SLASH}"}


def ids_of(documents: Sequence[Document]) -> list[str]:
    return [each["_id"] for each in documents]
