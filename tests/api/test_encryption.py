# SPDX-License-Identifier: Apache-2.0
"""Encrypted queues: every reader gets plain text, every store has ciphertext, and errors if a key is missing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.test_common import assert_error
from tests.api.test_placement import pool_of
from tests.api.test_pools import Admin
from zaqar.encryption.messages import MessageKeys, key_id_of
from zaqar.model import QUEUE, Message, QueueName, is_sealed
from zaqar.service.bodies import PASSED_OVER_SECONDS
from zaqar.service.leases import POP_SECONDS
from zaqar.storage.base import MessageStore, SealedBody

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
ENCRYPTED = {"_enable_encrypt_messages": True}
SECRET = {"secret": "x"}


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    api = make_api(transport__message_encryption_key="base64:" + base64.b64encode(KEY).decode())
    assert api.put("/v2/queues/q", ENCRYPTED).status_code == 201
    return api


def set_keys(api: Api, *masters: bytes) -> None:
    """Replace the keys, as a reload of the configuration does."""
    api.parts.messages._bodies._keys = MessageKeys(masters)


def stored(api: Api, queue: str = "q") -> list[Message]:
    """The messages as the store has them."""
    known = api.parts.queues.find(QueueName(api.project, QUEUE, queue), create=False)
    assert known is not None
    return known.store_ref.store.messages.list_after(
        queue=known.queue,
        after=0,
        limit=1000,
        now=api.clock.now,
        include_claimed=True,
        include_delayed=True,
    )


def sealed_bodies(store: MessageStore) -> list[SealedBody]:
    """All sealed bodies in the store, including those of other tests."""
    found, after = store.sealed_bodies.find(without=b"", after=None, limit=1000)
    while after is not None:
        more, after = store.sealed_bodies.find(without=b"", after=after, limit=1000)
        found += more
    return found


def tamper(api: Api, number: int = 0, queue: str = "q") -> None:
    """Store the first messages again, the one with this number with a changed byte."""
    known = api.parts.queues.find(QueueName(api.project, QUEUE, queue), create=False)
    assert known is not None
    body = stored(api, queue)[number].body
    (this,) = [each for each in sealed_bodies(known.store_ref.store) if each.body == body]
    known.store_ref.store.sealed_bodies.replace(replacements=[(this, body[:-1] + bytes((body[-1] ^ 1,)))])


# -- answers to clients ------------------------------------------------------------------------------------------------


def test_the_answers_have_the_form_of_the_recorded_exchange(api: Api) -> None:
    """Each answer has the form that was recorded from the reference service."""
    result = api.post("/v2/queues/q/messages", {"messages": [{"body": SECRET, "ttl": 300}, {"body": 5, "ttl": 300}]})
    assert result.status_code == 201
    hrefs = result.json["resources"]
    ids = [href.rpartition("/")[2] for href in hrefs]
    assert hrefs == [f"/v2/queues/q/messages/{id_}" for id_ in ids]
    assert result.headers["location"] == f"/v2/queues/q/messages?ids={','.join(ids)}"
    shown = [
        {"age": 0, "body": body, "href": href, "id": id_, "ttl": 300}
        for body, href, id_ in zip([SECRET, 5], hrefs, ids, strict=True)
    ]
    assert api.get(hrefs[0]).json == shown[0]
    listed = api.get("/v2/queues/q/messages?echo=true").json
    assert listed["messages"] == shown
    assert [link["rel"] for link in listed["links"]] == ["next"]
    assert "include_delayed=true" in listed["links"][0]["href"]
    assert api.get(f"/v2/queues/q/messages?ids={','.join(ids)}").json == {"messages": shown}


def test_every_read_returns_plain_text_and_the_store_has_ciphertext(api: Api) -> None:
    values = [SECRET, 5, "text", None, [1.5, True], "\u00e9"]
    ids = api.send("q", *values)
    bodies = [message.body for message in stored(api)]
    assert all(map(is_sealed, bodies))
    assert not any(b"secret" in body or b"text" in body for body in bodies)
    assert api.bodies("q") == values
    assert api.get(f"/v2/queues/q/messages/{ids[0]}").json["body"] == SECRET
    many = api.get(f"/v2/queues/q/messages?ids={','.join(ids)}").json["messages"]
    assert [message["body"] for message in many] == values
    claim_id, claimed = api.claim("q", limit=2)
    assert [message["body"] for message in claimed] == values[:2]
    held = api.get(f"/v2/queues/q/claims/{claim_id}").json["messages"]
    assert [message["body"] for message in held] == values[:2]
    popped = api.delete("/v2/queues/q/messages?pop=3").json["messages"]
    assert [message["body"] for message in popped] == values[2:5]
    assert api.counts("q") == (1, 2, 3)


def test_a_pop_has_the_same_answer_as_in_other_queues(api: Api) -> None:
    for queue in ("q", "plain"):
        ids = api.send(queue, 1, 2, 3, ttl=3600)
        claim_id, _ = api.claim(queue, limit=1)
        api.delete(f"/v2/queues/{queue}/claims/{claim_id}")
        assert api.delete(f"/v2/queues/{queue}/messages?pop=2").json["messages"] == [
            {"id": ids[0], "ttl": 3600, "age": 0, "body": 1, "claim_id": None, "claim_count": 1},
            {"id": ids[1], "ttl": 3600, "age": 0, "body": 2, "claim_id": None, "claim_count": 0},
        ]
        assert api.bodies(queue) == [3]
        assert api.delete(f"/v2/queues/{queue}/messages?pop=20").json["messages"][0]["id"] == ids[2]
        assert api.delete(f"/v2/queues/{queue}/messages?pop=20").json == {"messages": []}
    assert api.delete("/v2/queues/missing/messages?pop=1").json == {"messages": []}


def test_a_pop_that_is_killed_leaves_the_messages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is killed between the lease and the removal: the messages are free again when the lease ends."""
    api.send("q", 1)
    with monkeypatch.context() as patched:
        patched.setattr(api.parts.messages._leases, "_remove", lambda *_: 1 / 0)
        assert api.delete("/v2/queues/q/messages?pop=1").status_code == 500
    assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
    api.clock.advance(POP_SECONDS)
    assert [message["body"] for message in api.delete("/v2/queues/q/messages?pop=1").json["messages"]] == [1]


def test_a_pop_that_took_too_long_removes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client may have leased the messages by then: both would get them."""
    api.send("q", 1)
    readable = api.parts.messages._bodies.readable
    late = [POP_SECONDS - 1, 0]

    def slow(project: str, messages: list[Message]) -> list[Message]:
        if messages and late:
            api.clock.advance(late.pop(0))
        return readable(project, messages)

    monkeypatch.setattr(api.parts.messages._bodies, "readable", slow)
    assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
    assert api.counts("q") == (0, 1, 1)
    api.clock.advance(1)
    assert [message["body"] for message in api.delete("/v2/queues/q/messages?pop=1").json["messages"]] == [1]


def test_the_checksum_is_of_the_plain_body_and_is_not_stored(make_api: Callable[..., Api]) -> None:
    api = make_api(transport__message_encryption_key="hex:" + KEY.hex(), enable_checksum=True)
    api.put("/v2/queues/q", ENCRYPTED)
    api.send("q", SECRET)
    api.send("plain", SECRET)
    (plain,) = api.get("/v2/queues/plain/messages?echo=true").json["messages"]
    (message,) = api.get("/v2/queues/q/messages?echo=true").json["messages"]
    assert message["checksum"] == plain["checksum"]
    assert message["checksum"].startswith("MD5:")
    assert [each.checksum for each in stored(api)] == [None]


def test_limits_count_the_plain_size(api: Api) -> None:
    raw = json.dumps({"messages": [{"body": "x" * 100, "ttl": 300}]}).encode()
    api.put("/v2/queues/small", {**ENCRYPTED, "_max_messages_post_size": len(raw)})
    assert api.post("/v2/queues/small/messages", raw=raw).status_code == 201
    assert_error(api.post("/v2/queues/small/messages", raw=raw.replace(b"xx", b"xxx", 1)), 400, "messages")


def test_a_full_post_fits_into_every_store(api: Api) -> None:
    """So many small messages that the bytes added by encryption are more than the messages themselves."""
    many = 5000
    raw = json.dumps({"messages": [{"body": 1}] * many}, separators=(",", ":")).encode()
    assert api.post("/v2/queues/q/messages", raw=raw).status_code == 201
    large = json.dumps({"messages": [{"body": "x" * (262_144 - 40)}]}).encode()
    assert api.post("/v2/queues/q/messages", raw=large).status_code == 201
    assert api.counts("q")[2] == many + 1


def test_when_the_flag_changes_stored_messages_stay_as_they_are(api: Api) -> None:
    api.send("q", "sealed")
    api.patch_queue("q", {"op": "replace", "path": "/metadata/_enable_encrypt_messages", "value": False})
    api.send("q", "plain")
    api.patch_queue("q", {"op": "replace", "path": "/metadata/_enable_encrypt_messages", "value": True})
    api.send("q", "sealed again")
    assert [is_sealed(message.body) for message in stored(api)] == [True, False, True]
    assert api.bodies("q") == ["sealed", "plain", "sealed again"]
    api.patch_queue("q", {"op": "remove", "path": "/metadata/_enable_encrypt_messages"})
    popped = api.delete("/v2/queues/q/messages?pop=20").json["messages"]
    assert [message["body"] for message in popped] == ["sealed", "plain", "sealed again"]


# -- without a key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "AES256"])
def test_without_a_key_encryption_is_refused(make_api: Callable[..., Api], key: str | None) -> None:
    api = make_api(transport__message_encryption_key=key)
    refused = api.put("/v2/queues/new", ENCRYPTED)
    assert_error(refused, 400, "_enable_encrypt_messages")
    assert "[transport] message_encryption_key" in refused.json["description"]
    assert api.put("/v2/queues/q", {"_enable_encrypt_messages": False}).status_code == 201
    operation = {"op": "add", "path": "/metadata/_enable_encrypt_messages", "value": True}
    assert_error(api.patch_queue("q", operation), 400, "_enable_encrypt_messages")
    assert api.get("/v2/queues/q").json["_enable_encrypt_messages"] is False


def test_encryption_of_a_topic_is_refused(api: Api) -> None:
    assert_error(api.put("/v2/topics/t", ENCRYPTED), 400, "_enable_encrypt_messages")


def test_an_encrypted_queue_never_stores_plain_text(api: Api) -> None:
    """Not even after the keys were removed from the configuration."""
    set_keys(api)
    refused = api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]})
    assert_error(refused, 503, "message_encryption_key")
    assert "Retry-After" in refused.headers
    assert stored(api) == []
    # The other metadata of the queue can be changed.
    operation = {"op": "add", "path": "/metadata/x", "value": 1}
    assert api.patch_queue("q", operation).status_code == 200


# -- unreadable messages -----------------------------------------------------------------------------------------------


def test_a_message_whose_key_is_missing_is_a_503_that_says_so(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    set_keys(api, OTHER)
    (lost,) = api.send("q", "lost")
    set_keys(api, KEY)
    (kept,) = api.send("q", "kept")
    refused = api.get(f"/v2/queues/q/messages/{lost}")
    assert_error(refused, 503, lost)
    assert "does not have" in refused.json["description"]
    assert "Retry-After" in refused.headers
    assert api.get(f"/v2/queues/q/messages/{kept}").json["body"] == "kept"
    for query in ("echo=true", f"ids={lost},{kept}"):
        bad, good = api.get(f"/v2/queues/q/messages?{query}").json["messages"]
        assert (bad["id"], bad["body"]) == (lost, None)
        assert "does not have" in bad["error"]
        assert (good["id"], good["body"], "error" in good) == (kept, "kept", False)
    assert key_id_of(stored(api)[0].body) in caplog.text


def test_a_tampered_body_is_detected(api: Api) -> None:
    ids = api.send("q", "changed", "kept")
    tamper(api)
    refused = api.get(f"/v2/queues/q/messages/{ids[0]}")
    assert_error(refused, 503, "damaged")
    assert [message["body"] for message in api.claim("q")[1]] == ["kept"]


def test_a_claim_skips_unreadable_messages_and_loses_none(api: Api) -> None:
    set_keys(api, OTHER)
    api.send("q", *(f"lost {number}" for number in range(5)))
    set_keys(api, KEY)
    api.send("q", "a", "b")
    # With a limit below the number of unreadable messages in front, each claim still returns a message.
    claim_id, claimed = api.claim("q", limit=1)
    assert [message["body"] for message in claimed] == ["a"]
    assert [message["body"] for message in api.get(f"/v2/queues/q/claims/{claim_id}").json["messages"]] == ["a"]
    assert [message["body"] for message in api.claim("q", limit=10)[1]] == ["b"]
    assert api.claim("q") == ("", [])
    assert api.counts("q") == (0, 7, 7)
    # The key is configured again.
    set_keys(api, KEY, OTHER)
    api.clock.advance(PASSED_OVER_SECONDS)
    assert [message["body"] for message in api.claim("q", limit=5)[1]] == [f"lost {number}" for number in range(5)]


def test_a_claim_of_readable_and_unreadable_messages_hides_the_unreadable_ones(api: Api) -> None:
    set_keys(api, OTHER)
    (lost,) = api.send("q", "lost")
    set_keys(api, KEY)
    api.send("q", "a")
    claim_id, claimed = api.claim("q", limit=2)
    assert [message["body"] for message in claimed] == ["a"]
    for message in claimed:
        assert api.delete(message["href"]).status_code == 204
    assert api.delete(f"/v2/queues/q/claims/{claim_id}").status_code == 204
    # A client that deletes all messages that it was given has not deleted the unreadable one.
    listed = api.get("/v2/queues/q/messages?echo=true&include_claimed=true").json["messages"]
    assert [message["id"] for message in listed] == [lost]


@pytest.mark.parametrize("flag", [True, False], ids=["encrypted queue", "other queue"])
def test_a_pop_never_removes_an_unreadable_message(api: Api, flag: bool) -> None:
    set_keys(api, OTHER)
    lost = api.send("q", "lost 0", "lost 1", "lost 2", ttl=3600)
    set_keys(api, KEY)
    operation = {"op": "replace", "path": "/metadata/_enable_encrypt_messages", "value": flag}
    api.patch_queue("q", operation)
    api.send("q", "a", "b", "c")
    for expected in (["a"], ["b", "c"], []):
        popped = api.delete("/v2/queues/q/messages?pop=2").json["messages"]
        assert [message["body"] for message in popped] == expected
    assert [message.id for message in stored(api)] == lost
    set_keys(api, OTHER)
    api.clock.advance(PASSED_OVER_SECONDS)
    popped = api.delete("/v2/queues/q/messages?pop=20").json["messages"]
    assert [message["id"] for message in popped] == lost


def test_an_empty_answer_means_that_nothing_was_free(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """If more messages are unreadable than one request passes over, the next request continues behind them."""
    for module in ("claims", "leases"):
        monkeypatch.setattr(f"zaqar.service.{module}.MOST_ROUNDS", 2)
    set_keys(api, OTHER)
    api.send("q", *range(7))
    set_keys(api, KEY)
    api.send("q", "a", "b")
    assert api.post("/v2/queues/q/claims?limit=1").status_code == 503
    assert api.delete("/v2/queues/q/messages?pop=2").status_code == 503
    assert [message["body"] for message in api.delete("/v2/queues/q/messages?pop=2").json["messages"]] == ["a"]
    assert [message["body"] for message in api.claim("q")[1]] == ["b"]


def test_an_unreadable_message_still_expires(api: Api) -> None:
    set_keys(api, OTHER)
    api.send("q", "lost")
    set_keys(api, KEY)
    for _ in range(3):
        assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
        api.clock.advance(PASSED_OVER_SECONDS)
    assert api.counts("q") == (0, 0, 0)


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_dead_letters_stay_encrypted_in_a_queue_that_is_not(api: Api) -> None:
    api.patch_queue(
        "q",
        {"op": "add", "path": "/metadata/_dead_letter_queue", "value": "dead"},
        {"op": "add", "path": "/metadata/_max_claim_count", "value": 1},
    )
    api.send("dead", "own")
    (id_,) = api.send("q", SECRET)
    claim_id, _ = api.claim("q")
    api.delete(f"/v2/queues/q/claims/{claim_id}")
    assert api.claim("q") == ("", [])
    assert [is_sealed(message.body) for message in stored(api, "dead")] == [False, True]
    assert api.bodies("dead") == ["own", SECRET]
    dead_letter = api.get("/v2/queues/dead/messages?echo=true&include_origin=true").json["messages"][1]
    assert dead_letter["origin"] == {"queue": "q", "message_id": id_, "claim_count": 1}
    # The queue for which the key was derived may have been deleted.
    api.delete("/v2/queues/q")
    assert [message["body"] for message in api.claim("dead", limit=1)[1]] == ["own"]
    popped: list[dict[str, Any]] = api.delete("/v2/queues/dead/messages?pop=5").json["messages"]
    assert [message["body"] for message in popped] == [SECRET]


def test_dead_letters_of_another_pool_stay_encrypted(make_api: Callable[..., Api], tmp_path: Path) -> None:
    """Dead letters move from one store to the other without being decrypted."""
    api = make_api(pooling=True, drivers__message_store="nosuch", transport__message_encryption_key="hex:" + KEY.hex())
    admin = Admin(api, tmp_path)
    rules = {**ENCRYPTED, "_max_claim_count": 1, "_dead_letter_queue": "dead"}
    try:
        admin.add("one")
        api.put("/v2/queues/q", rules)
        admin.request("PATCH", "pools/one", {"weight": 0})
        admin.add("two")
        api.put("/v2/queues/dead")
        api.send("q", SECRET, 5)
        claim_id, _ = api.claim("q")
        api.delete(f"/v2/queues/q/claims/{claim_id}")
        assert api.claim("q") == ("", [])
        assert (pool_of(api, "q"), pool_of(api, "dead")) == ("one", "two")
        assert [is_sealed(message.body) for message in stored(api, "dead")] == [True, True]
        assert api.bodies("dead") == [SECRET, 5]
        assert [message["body"] for message in api.claim("dead", limit=1)[1]] == [SECRET]
        assert [message["body"] for message in api.delete("/v2/queues/dead/messages?pop=1").json["messages"]] == [5]
    finally:
        # All tests of a session share the management store.
        for queue in ("q", "dead"):
            api.delete(f"/v2/queues/{queue}")
        for name in ("one", "two"):
            admin.request("DELETE", f"pools/{name}")


def test_an_unreadable_message_becomes_a_dead_letter_like_others(api: Api) -> None:
    api.patch_queue(
        "q",
        {"op": "add", "path": "/metadata/_dead_letter_queue", "value": "dead"},
        {"op": "add", "path": "/metadata/_max_claim_count", "value": 1},
    )
    set_keys(api, OTHER)
    api.send("q", "lost", ttl=3600)
    set_keys(api, KEY)
    assert api.claim("q") == ("", [])
    api.clock.advance(PASSED_OVER_SECONDS)
    assert api.claim("q") == ("", [])
    assert stored(api) == []
    assert api.claim("dead") == ("", [])
    set_keys(api, OTHER)
    assert api.bodies("dead", "echo=true&include_claimed=true") == ["lost"]


def test_projects_cannot_read_each_others_bodies(api: Api) -> None:
    """Not even if someone who can write to the store copies the sealed body into the other project."""
    api.send("q", SECRET)
    body = stored(api)[0].body
    mine = api.project
    api.project = mine + "2"
    api.put("/v2/queues/q", ENCRYPTED)
    api.send("q", "own")
    known = api.parts.queues.find(QueueName(api.project, QUEUE, "q"), create=False)
    assert known is not None
    own = stored(api)[0].body
    (this,) = [each for each in sealed_bodies(known.store_ref.store) if each.body == own]
    assert known.store_ref.store.sealed_bodies.replace(replacements=[(this, body)]) == 1
    (shown,) = api.get("/v2/queues/q/messages?echo=true").json["messages"]
    assert shown["body"] is None
    assert "another project" in shown["error"]
