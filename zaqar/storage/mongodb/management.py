# SPDX-License-Identifier: Apache-2.0
"""The management store on MongoDB, made of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from zaqar.storage.base import ManagementStore
from zaqar.storage.mongodb.catalog import MongoCatalog
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.nodes import NODE_INDEXES, NODES, MongoNodes
from zaqar.storage.mongodb.queue_records import RECORD_INDEXES, RECORDS, MongoQueueRecords
from zaqar.storage.mongodb.subscriptions import (
    PAUSE_INDEXES,
    PAUSES,
    SUBSCRIPTION_INDEXES,
    SUBSCRIPTIONS,
    MongoSubscriptions,
)
from zaqar.storage.mongodb.trusts import TRUST_INDEXES, TRUSTS, MongoTrusts

COLLECTIONS = {
    RECORDS: RECORD_INDEXES,
    SUBSCRIPTIONS: SUBSCRIPTION_INDEXES,
    PAUSES: PAUSE_INDEXES,
    TRUSTS: TRUST_INDEXES,
    NODES: NODE_INDEXES,
}
"""The collections with their indexes, the main one first."""


class MongoManagementStore(ManagementStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self.replica_set = replica_set
        self.queue_records = MongoQueueRecords(replica_set)
        self.subscriptions = MongoSubscriptions(replica_set)
        self.catalog = MongoCatalog(replica_set)
        self.trusts = MongoTrusts(replica_set)
        self.nodes = MongoNodes(replica_set)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(ReplicaSet.open(settings, COLLECTIONS))

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        # Without the indexes, which ReplicaSet.open would make.
        return cls(ReplicaSet.open(settings, dict.fromkeys(COLLECTIONS, ())))

    def ping(self) -> None:
        self.replica_set.ping()

    def close(self) -> None:
        self.replica_set.close()
