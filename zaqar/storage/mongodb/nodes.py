# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections: a document for each, and one for each subscription of a connection.

Every step changes one document, so none needs a transaction. All reads use the primary with read concern "local": it
has every acknowledged write, also just after a fail-over, when read concern "majority" may return older data.

A condemned node has 0 as ``expires``. A note of a subscription has ``node/uid/subscription`` as its ``_id``.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict

from pymongo.errors import DuplicateKeyError

from zaqar.storage.base import Node, NodeStore, NodeSubscription
from zaqar.storage.mongodb.client.connection import Document, Index, ReplicaSet
from zaqar.storage.mongodb.client.statements import under

NODES = "nodes"
NODE_INDEXES = (Index("expires", ("expires",), "expires"),)

NODE_SUBSCRIPTIONS = "node_subscriptions"

_CONDEMNED = {"$set": {"condemned": True, "expires": 0.0}}


class MongoNodes(NodeStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    def add(self, *, node: Node) -> None:
        document = asdict(node)
        this = {"_id": document.pop("id")}
        new = {"$setOnInsert": {**document, "condemned": False}}
        with self._set.step() as connection:
            connection[NODES].majority.update_one(this, new, upsert=True)

    def get(self, *, node_id: str) -> Node | None:
        with self._set.step() as connection:
            found = connection[NODES].latest.find_one(_live(node_id))
        return None if found is None else _node_of(found)

    def renew(self, *, node_id: str, expires: float) -> bool:
        change = {"$set": {"expires": expires}}
        with self._set.step() as connection:
            return connection[NODES].majority.update_one(_live(node_id), change).matched_count == 1

    def condemn(self, *, node_id: str, now: float) -> bool:
        over = {**_live(node_id), "expires": {"$lte": now}}
        with self._set.step() as connection:
            nodes = connection[NODES]
            if nodes.majority.update_one(over, _CONDEMNED).matched_count:
                return True
            # Nothing was changed. If the node is live, its lease was not over at that moment.
            return nodes.latest.find_one(_live(node_id), {"_id": 1}) is None

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        over = {"expires": {"$lte": now}}
        with self._set.step() as connection:
            found = list(connection[NODES].latest.find(over, {"_id": 1}, sort={"expires": 1}, limit=limit))
        return [document["_id"] for document in found]

    def remove(self, *, node_id: str) -> None:
        # After the first step no note succeeds, so the second step removes all notes. The node itself is removed last,
        # so that it is still listed after a crash in between.
        this = {"_id": node_id}
        with self._set.step() as connection:
            nodes = connection[NODES].majority
            nodes.update_one(this, _CONDEMNED)
            connection[NODE_SUBSCRIPTIONS].majority.delete_many(_notes_of(node_id))
            nodes.delete_one(this)

    def condemn_forgotten(self) -> None:
        """Look at one note of each node, and insert the node as a condemned one if it is absent.

        A node that exists is left as it is, in one atomic step. An id is not used again, so no node of it is added.
        """
        after = ""
        with self._set.step() as connection:
            notes, nodes = connection[NODE_SUBSCRIPTIONS].latest, connection[NODES].majority
            while (note := notes.find_one({"_id": {"$gte": after}}, {"_id": 1}, sort={"_id": 1})) is not None:
                node_id = note["_id"].partition("/")[0]
                with suppress(DuplicateKeyError):  # Another notifier has just inserted it.
                    nodes.update_one({"_id": node_id}, {"$setOnInsert": _CONDEMNED["$set"]}, upsert=True)
                after = under(node_id)["$lt"]

    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        """Store the note, then write to the node if it is live.

        ``condemn`` writes to the same document, so it comes before or after the second write. If it comes after, the
        note was stored before, and ``list_subscriptions`` of the condemned node has it. If it comes before, the note is
        removed again. A caller that has listed the note meanwhile finds that its subscription does not exist. If this
        process crashes before it removes the note, and the node is removed already, ``condemn_forgotten`` finds it.
        """
        this = {"_id": _note_id(node_id, subscription)}
        new = {"$setOnInsert": {"queue": subscription.queue_uid, "subscription": subscription.subscription_id}}
        with self._set.step() as connection:
            notes = connection[NODE_SUBSCRIPTIONS].majority
            is_new = notes.update_one(this, new, upsert=True).upserted_id is not None
            if connection[NODES].majority.update_one(_live(node_id), {"$inc": {"notes": 1}}).matched_count:
                return True
            if is_new:
                notes.delete_one(this)
            return False

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        with self._set.step() as connection:
            notes = connection[NODE_SUBSCRIPTIONS].latest
            found = list(notes.find(_notes_of(node_id), limit=limit, batch_size=limit + 1))
        return [NodeSubscription(document["queue"], document["subscription"]) for document in found]

    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        ids = [_note_id(node_id, each) for each in subscriptions]
        if ids:
            with self._set.step() as connection:
                connection[NODE_SUBSCRIPTIONS].majority.delete_many({"_id": {"$in": ids}})


def _live(node_id: str) -> Document:
    return {"_id": node_id, "condemned": False}


def _note_id(node_id: str, subscription: NodeSubscription) -> str:
    return f"{node_id}/{subscription.queue_uid}/{subscription.subscription_id}"


def _notes_of(node_id: str) -> Document:
    return {"_id": under(node_id)}


def _node_of(document: Document) -> Node:
    fields = ("machine", "host", "port", "socket", "expires", "key")
    return Node(id=document["_id"], **{name: document[name] for name in fields})
