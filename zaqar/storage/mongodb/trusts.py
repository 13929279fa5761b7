# SPDX-License-Identifier: Apache-2.0
"""Keystone trusts that are to be deleted one day: a document each, with the id of the trust as its ``_id``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from pymongo.collection import Collection

from zaqar.model import Trust
from zaqar.storage.base import TrustStore
from zaqar.storage.mongodb.client.connection import Document, Index, ReplicaSet

TRUSTS = "trusts"
TRUST_INDEXES = (
    Index("due", ("due",), "due"),
    Index("subscription", ("queue_uid", "subscription_id"), "queue_uid"),
)


class MongoTrusts(TrustStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    def put(self, *, trust: Trust) -> None:
        with self._trusts() as trusts:
            trusts.replace_one({"_id": trust.id}, _document_of(trust), upsert=True)

    def get(self, *, trust_id: str) -> Trust | None:
        with self._trusts() as trusts:
            found = trusts.find_one({"_id": trust_id})
        return None if found is None else _trust_of(found)

    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        later: Document = {"queue_uid": queue_uid, "attached": True, "due": {"$gt": now}}
        if subscription_id is not None:
            later["subscription_id"] = subscription_id
        with self._trusts() as trusts:
            trusts.update_many(later, {"$set": {"due": now}})

    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        with self._trusts() as trusts:
            found = list(trusts.find({"due": {"$lte": now}}, sort={"due": 1}, limit=limit))
        return [_trust_of(document) for document in found]

    def replace(self, *, trust: Trust, was_due: float) -> bool:
        with self._trusts() as trusts:
            return trusts.replace_one({"_id": trust.id, "due": was_due}, _document_of(trust)).matched_count == 1

    def forget(self, *, trust_id: str) -> None:
        with self._trusts() as trusts:
            trusts.delete_one({"_id": trust_id})

    @contextmanager
    def _trusts(self) -> Iterator[Collection[Document]]:
        with self._set.step() as connection:
            yield connection[TRUSTS].majority


def _document_of(trust: Trust) -> Document:
    document = asdict(trust)
    return {"_id": document.pop("id"), **document}


def _trust_of(document: Document) -> Trust:
    return Trust(id=document.pop("_id"), **document)
