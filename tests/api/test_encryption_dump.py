# SPDX-License-Identifier: Apache-2.0
"""A dump of a store shows no text that was posted to an encrypted queue."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import servers
from tests.api.client import Api
from tests.api.marks import on_every_store
from tests.conformance.drivers import Driver
from zaqar import app
from zaqar.model import DONE, QUEUE, Delivery, Queue, QueueName, is_sealed
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryMessageStore


def _redis(node: Any) -> Iterator[bytes]:
    """The append-only file as it is on the disk, and every key as the server returns it."""
    for path in sorted(Path(node.program.folder).rglob("*")):
        if path.is_file() and path.suffix != ".log":
            yield path.read_bytes()
    import redis

    with redis.Redis(port=node.program.port) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key)
            if kind == b"hash":
                yield from (part for pair in client.hgetall(key).items() for part in pair)
            elif kind == b"zset":
                yield from client.zrange(key, 0, -1)
            elif kind == b"set":
                yield from client.smembers(key)
            else:
                assert kind == b"string", kind
                yield client.get(key)


def _mongodb(address: str) -> Iterator[bytes]:
    import bson
    import pymongo

    uri, _, database = address.partition(" ")
    client: Any = pymongo.MongoClient(uri)
    with client:
        for name in client[database].list_collection_names():
            for document in client[database][name].find():
                yield bson.encode(document)


def _postgresql(address: str) -> Iterator[bytes]:
    import psycopg

    with psycopg.connect(address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT'.encode()) as rows:
                # Binary columns are dumped as hexadecimal digits.
                yield from (bytes(row) for row in rows)


def _sqlite(address: str) -> Iterator[bytes]:
    path = Path(address.removeprefix("sqlite:///"))
    yield from (each.read_bytes() for each in path.parent.glob(path.name + "*"))


def dump(driver: Driver, address: str, store: MessageStore) -> bytes:
    if isinstance(store, MemoryMessageStore):
        return repr(vars(store.data)).encode()
    found = {
        "sqlite": lambda: _sqlite(address),
        "postgresql": lambda: _postgresql(address),
        "mongodb": lambda: _mongodb(address),
        "redis": lambda: _redis(servers.shared("redis")),
        "redis-cluster": lambda: (part for node in servers.shared("redis-cluster").nodes for part in _redis(node)),  # type: ignore[attr-defined]
    }[driver.name]()
    return b"\0".join(found)


def spellings(text: str) -> list[bytes]:
    """The text itself, in hexadecimal digits, and in Base64 at each of the three offsets in a longer text."""
    raw = text.encode()
    # The first and the last digits depend on the neighbouring bytes.
    encoded = [base64.b64encode(bytes(shift) + raw)[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *encoded]


def queue_of(api: Api, name: str) -> Queue:
    known = api.parts.queues.find(QueueName(api.project, QUEUE, name), create=False)
    assert known is not None
    return known.queue


def store_in_every_state(api: Api, marker: str, *, encrypted: bool) -> None:
    """Bring messages into every state, and into every place where the service stores messages."""
    name, dead = ("q", "dead") if encrypted else ("plain", "plain-dead")
    body = {"card": marker}
    rules = {"_dead_letter_queue": dead, "_max_claim_count": 1, "_enable_encrypt_messages": encrypted}
    assert api.put(f"/v2/queues/{name}", rules).status_code == 201
    store = next(iter(api.parts.stores()))
    # Dead letters: one in its queue, and one on its way to another store.
    for moved in (True, False):
        api.send(name, body)
        claim_id, _ = api.claim(name)
        api.delete(f"/v2/queues/{name}/claims/{claim_id}")
        if moved:
            assert api.claim(name) == ("", [])
        else:
            queue = queue_of(api, name)
            aside = store.dead_letters.set_aside(queue=queue, max_claim_count=1, limit=10, now=api.clock.now)
            assert [is_sealed(message.body) for message in aside] == [encrypted]
    # A post that waits for a notifier, and a post whose deliveries were made and sent.
    for state in ("posted", "sent"):
        heard = f"{name}-{state}"
        api.put(f"/v2/queues/{heard}", {"_enable_encrypt_messages": encrypted})
        created = api.post(f"/v2/queues/{heard}/subscriptions", {"subscriber": "mailto:a@example.org"})
        api.send(heard, body)
        if state == "sent":
            send_all(api, store, queue_of(api, heard).uid, created.json["subscription_id"])
    # A delivery that the notifier gave up becomes a dead letter in another queue.
    dead_letter = json.dumps({"messages": [{"body": {"message": body}}]}).encode()
    failures = app.build_notifier(api.parts)._shared.failures
    failures._post_dead_letter(api.project, f"{name}-lost", dead_letter, encrypt=encrypted, trace=None)
    api.send(name, body, delay=60)
    api.send(name, body, body)
    api.claim(name, limit=1)
    # A deleted message and a popped message.
    (id_,) = api.send(f"{name}-posted", body)
    api.delete(f"/v2/queues/{name}-posted/messages/{id_}")
    assert len(api.delete(f"/v2/queues/{name}/messages?pop=1").json["messages"]) == 1


def send_all(api: Api, store: MessageStore, uid: str, subscription: str) -> None:
    now = api.clock.now
    for posted in store.outbox.take(owner="n", until=now + 60, now=now, limit=1000):
        if posted.queue_uid != uid:
            continue
        made = [
            Delivery(
                uid,
                subscription,
                posted.first + n,
                draft.body,
                300,
                now,
                "c",
                now + n,
                state=DONE,
                keep_until=now + 9999,
            )
            for n, draft in enumerate(posted.drafts)
        ]
        assert store.outbox.expand(posted=posted, deliveries=made, position=None, until=now)
    assert store.delivery_log.list_before(
        queue_uid=uid, subscription_id=subscription, state=None, before=None, limit=10
    )


@on_every_store
def test_a_dump_holds_no_plain_text(driver: Driver, address: str, make_api: Callable[..., Api]) -> None:
    api = make_api(
        transport__message_encryption_key="hex:" + "ab" * 32,
        enable_checksum=True,
        storage__message_pipeline=["zaqar.notification.notifier"],
    )
    hidden, shown = secrets.token_hex(20), secrets.token_hex(20)
    store_in_every_state(api, hidden, encrypted=True)
    store_in_every_state(api, shown, encrypted=False)
    store = next(iter(api.parts.stores()))
    content = dump(driver, address, store)
    # The dump shows the text of a queue without encryption, so it would show that of the encrypted queue.
    assert any(spelling in content for spelling in spellings(shown))
    for spelling in spellings(hidden):
        assert spelling not in content
    # The dump has no digest either that would tell whether a guess of the text is right.
    plain = json.dumps({"card": hidden}).encode()
    for digest in (
        hashlib.md5(plain, usedforsecurity=False),
        hashlib.sha256(plain),
        hashlib.sha1(plain, usedforsecurity=False),
    ):
        assert digest.hexdigest().encode() not in content
    # No store has the key, as bytes or as text.
    assert b"ab" * 32 not in content
    assert bytes.fromhex("ab" * 32) not in content
