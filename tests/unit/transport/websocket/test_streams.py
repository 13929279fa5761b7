# SPDX-License-Identifier: Apache-2.0
"""Streams over real sockets: their frames, credit, limits and ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.unit.transport.websocket.frames import PROJECT
from tests.unit.transport.websocket.serving import (
    PATIENCE,
    Peer,
    Service,
    make_parts,
    reload_parts,
    run,
    wait_until,
)
from tests.unit.transport.websocket.test_waiting import bodies, close_code, post
from tests.unit.transport.websocket.tokens import Tokens, with_tokens
from zaqar.access.identity import Identity
from zaqar.access.signed_urls import format_time
from zaqar.errors import StoreUnavailable
from zaqar.transport.websocket import close_codes, stream_sending
from zaqar.transport.websocket.stream_table import MAX_CREDIT, MAX_STREAMS

KEY = "k" * 32
PATH = "/v2/queues/q/messages"


@pytest.fixture
def store() -> str:
    """The driver of the stores; tests/conformance/waiting runs some of these tests on SQLite."""
    return "memory"


async def follow(client: Peer, **body: Any) -> str:
    """Open a stream of the queue ``q``; its position."""
    status, answer = await client.request("stream_open", **{"queue_name": "q", "credit": 100, **body})
    assert status == 200, answer
    position: str = answer["position"]
    return position


async def messages(client: Peer, count: int) -> list[Any]:
    """The bodies of the next messages of a stream."""
    frames = [await client.frame() for _ in range(count)]
    assert {frame["event"] for frame in frames} <= {"message"}, frames
    return [frame["data"]["body"] for frame in frames]


# -- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_a_stream_sends_what_a_list_shows(tmp_path: Path, packs: bool, store: str) -> None:
    async def script(service: Service) -> None:
        async with service.client(packs=packs) as client, service.client() as poster:
            await post(poster, "before")
            await follow(client)
            await post(poster, {"n": 1}, {"n": 2})
            frames = [await client.frame() for _ in range(2)]
            _, listed = await client.request("message_list", queue_name="q", echo=True)
            for frame, message in zip(frames, listed["messages"][1:], strict=True):
                assert frame.pop("data") == message
                assert frame == {
                    "Message_Type": "Stream",
                    "event": "message",
                    "queue_name": "q",
                    "id": message["id"],
                }

    run(script, make_parts(tmp_path, store=store))


def test_a_stream_may_begin_with_the_oldest_message(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await post(client, *range(20))
            await post(client, *range(20, 40))
            await follow(client, **{"from": "oldest"}, limit=7)
            assert await messages(client, 40) == list(range(40))
            await client.request("stream_close", queue_name="q")
            # Without this client's own messages there are none.
            await follow(client, **{"from": "oldest"}, echo=False)
            assert await client.is_quiet()

    run(script, make_parts(tmp_path))


def test_claimed_messages_are_sent_too(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await post(client, 1)
            _, claim = await client.request("claim_create", queue_name="q")
            await follow(client, **{"from": "oldest"})
            frame = await client.frame()
            assert frame["data"]["claim_id"] == claim["claim_id"]

    run(script, make_parts(tmp_path))


def test_a_reader_resumes_where_its_connection_was_cut(tmp_path: Path, store: str) -> None:
    """Also if the queue did not exist when the stream began, and if messages were deleted in between."""

    async def script(service: Service) -> None:
        async with service.client() as poster:
            async with service.client() as client:
                marker = await follow(client)
            seen: list[int] = []
            for number in range(0, 30, 3):
                await post(poster, number, number + 1)
                async with service.client() as client:
                    await follow(client, marker=marker)
                    for _ in range(2):
                        frame = await client.frame()
                        marker = frame["id"]
                        seen.append(frame["data"]["body"])
                    await post(poster, number + 2)
                    if number % 2:
                        frame = await client.frame()
                        marker = frame["id"]
                        seen.append(frame["data"]["body"])
                    client.library.transport.abort()
                if not number % 2:
                    async with service.client() as client:
                        await follow(client, marker=marker)
                        frame = await client.frame()
                        await poster.request("message_delete", queue_name="q", message_id=frame["data"]["id"])
                        marker = frame["id"]
                        seen.append(frame["data"]["body"])
            assert seen == list(range(30))

    run(script, make_parts(tmp_path, store=store))


def test_a_delayed_message_comes_when_it_is_due(tmp_path: Path) -> None:
    clock = FakeClock()

    async def script(service: Service) -> None:
        async with service.client() as client:
            await follow(client)
            await post(client, "late", delay=1)
            await post(client, "early")
            early = await client.frame()
            assert await client.is_quiet()
            # Nothing wakes the stream but its timer, which has the second of the delay.
            clock.advance(1)
            late = await client.frame()
            assert (early["data"]["body"], late["data"]["body"]) == ("early", "late")
            # A reader that had seen the early one only would have resumed before the late one.
            assert early["id"] < late["data"]["id"] < early["data"]["id"]
            assert late["id"] == early["data"]["id"]

    run(script, make_parts(tmp_path, clock=clock))


def test_a_recreated_queue_resets_its_streams_and_a_deleted_topic_ends_them(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await post(client, "old")
            await client.request("topic_create", topic_name="t")
            position = await follow(client)
            status, _ = await client.request("stream_open", topic_name="t", credit=1)
            assert status == 200
            await client.request("queue_delete", queue_name="q")
            assert await client.is_quiet()
            await post(client, "new")
            reset, message = await client.frame(), await client.frame()
            assert reset.pop("id") == reset["data"].pop("position")
            assert reset == {
                "Message_Type": "Stream",
                "event": "reset",
                "queue_name": "q",
                "data": {"reason": "recreated"},
            }
            assert message["data"]["body"] == "new"
            assert not message["id"].startswith(position[:24])
            await client.request("topic_delete", topic_name="t")
            bye = await client.frame()
            assert (bye["event"], bye["topic_name"], bye["data"]) == ("bye", "t", {"reason": "deleted"})
            # Only the other stream is left.
            await service.until_waiting(1)

    run(script, make_parts(tmp_path))


def test_frames_come_between_the_replies_that_open_and_close_a_stream(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await post(poster, *range(20))
            for _ in range(20):
                # All at once.
                await client.send("stream_open", queue_name="q", credit=1000, **{"from": "oldest"})
                await client.send("queue_create", queue_name="q")
                await client.send("stream_close", queue_name="q")
                await client.send("queue_create", queue_name="q")
                is_open = False
                for _ in range(4):
                    reply = await client.whole_reply()
                    if reply["request"]["action"] == "stream_open":
                        assert not client.frames
                        is_open = True
                    elif reply["request"]["action"] == "stream_close":
                        client.frames.clear()
                        is_open = False
                assert not is_open
                assert not client.frames
            assert await client.is_quiet()

    run(script, make_parts(tmp_path))


# -- credit ----------------------------------------------------------------------------------------------------------


def test_no_more_messages_are_sent_than_the_credit_allows(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await follow(client, credit=3)
            await post(poster, *range(10))
            assert await messages(client, 3) == [0, 1, 2]
            assert await client.is_quiet()
            assert (await client.request("stream_credit", queue_name="q", credit=5))[0] == 204
            assert await messages(client, 5) == [3, 4, 5, 6, 7]
            assert await client.is_quiet()
            # Credit that is left counts.
            await client.request("stream_credit", queue_name="q", credit=4)
            assert await messages(client, 2) == [8, 9]
            await post(poster, *range(10, 15))
            assert await messages(client, 2) == [10, 11]
            assert await client.is_quiet()

    run(script, make_parts(tmp_path))


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"credit": 0}, f"credit: must be from 1 to {MAX_CREDIT}, not 0"),
        ({}, "credit: is required"),
        ({"credit": 1, "from": "then"}, "from: must be 'now' or 'oldest'"),
        ({"credit": 1, "marker": "no id"}, "marker: must be the id of a message"),
        ({"credit": 1, "marker": "0" * 36, "from": "now"}, "from: cannot be given together with 'marker'"),
        ({"credit": 1, "limit": 21}, "limit: must be from 1 to 20, not 21"),
    ],
)
def test_a_wrong_stream_is_refused_and_leaves_nothing(tmp_path: Path, body: dict[str, Any], sentence: str) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            status, answer = await client.request("stream_open", queue_name="q", **body)
            assert (status, answer["error"]) == (400, sentence)
            assert service.waiting() == 0
            assert (await client.request("stream_credit", queue_name="q", credit=1))[0] == 404
            assert (await client.request("stream_close", queue_name="q"))[0] == 204

    run(script, make_parts(tmp_path))


def test_streams_have_the_policy_of_a_list(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('"messages:get_all": "role:reader"\n')

    async def script(service: Service) -> None:
        async with service.client() as client:
            for action in ("stream_open", "stream_credit", "stream_close", "message_list"):
                fields = {} if action in ("stream_close", "message_list") else {"credit": 1}
                assert (await client.request(action, queue_name="q", **fields))[0] == 403
                status, _ = await client.request(action, {"X-Roles": "reader"}, queue_name="q", **fields)
                assert status in (200, 204)
            assert service.waiting() == 0

    run(script, make_parts(tmp_path, oslo_policy__policy_file=str(policy)))


def test_credit_has_a_limit(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await follow(client, credit=MAX_CREDIT)
            status, answer = await client.request("stream_credit", queue_name="q", credit=1)
            assert (status, answer["error"][:7]) == (400, "credit:")

    run(script, make_parts(tmp_path))


def test_a_connection_has_one_stream_of_a_queue_and_so_many_in_all(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            for number in range(MAX_STREAMS):
                await follow(client, queue_name=f"q{number}")
            for name in ("q0", "one-more"):
                status, answer = await client.request("stream_open", queue_name=name, credit=1)
                assert status == 409
                assert "stream" in answer["error"]
            assert service.waiting() == MAX_STREAMS
            await client.request("stream_close", queue_name="q0")
            await follow(client, queue_name="one-more")
            # A topic of the same name is another one.
            await client.request("stream_close", queue_name="q1")
            assert (await client.request("stream_open", topic_name="q2", credit=1))[0] == 200
        await service.until_waiting(0)

    run(script, make_parts(tmp_path))


@pytest.mark.parametrize(("option", "status"), [("max_streams", 503), ("max_streams_per_project", 429)])
def test_a_stream_too_many_is_told_when_to_try_again(tmp_path: Path, option: str, status: int) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as other, service.client(project="p2") as third:
            await follow(client)
            await other.send("stream_open", queue_name="q", credit=1)
            reply = await other.whole_reply()
            assert reply["headers"] == {"status": status, "Retry-After": 5}
            owner = "The project" if status == 429 else "This server"
            assert reply["body"]["error"].startswith(f"{owner} has as many streams")
            assert (await third.request("stream_open", queue_name="q", credit=1))[0] == (503 if status == 503 else 200)
            await client.library.close()
            await wait_until(lambda: service.waiting() == (status == 429))
            await follow(other)

    run(script, make_parts(tmp_path, **{f"transport__{option}": 1}))


# -- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_of_a_connection_ends_its_streams(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as poster:
            for way in ("close", "abort"):
                async with service.client() as client:
                    await follow(client)
                    await follow(client, queue_name="other", credit=1)
                    await post(poster, 1)
                    assert await messages(client, 1) == [1]
                    assert service.waiting() == 2
                    if way == "abort":
                        client.library.transport.abort()
                await service.until_waiting(0)
                await wait_until(lambda: len(service.connections) == 1)

    run(script, make_parts(tmp_path))


def test_a_drain_sends_a_last_frame_to_all_streams(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(service.client()) for _ in range(20)]
            for client in clients:
                position = await follow(client)
                await follow(client, queue_name="other")
            ending = asyncio.ensure_future(service.server.stop())
            for client in clients:
                byes = [await client.frame() for _ in range(2)]
                assert {(bye["event"], bye["queue_name"], bye["data"]["reason"]) for bye in byes} == {
                    ("bye", "q", "drain"),
                    ("bye", "other", "drain"),
                }
                assert byes[0]["id"] == position
                assert await close_code(client) == close_codes.GOING_AWAY
            await ending

    run(script, make_parts(tmp_path))


def test_the_last_frame_has_the_marker_of_the_frame_before(tmp_path: Path) -> None:
    """It is not the position up to which the service has read."""

    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await follow(client, credit=2)
            await post(poster, 1, 2, 3, 4)
            seen = [await client.frame() for _ in range(2)]
            ending = asyncio.ensure_future(service.server.stop())
            bye = await client.frame()
            assert (bye["event"], bye["id"]) == ("bye", seen[-1]["id"])
            await ending

    run(script, make_parts(tmp_path))


def test_a_stream_ends_with_the_signature_that_opened_it(tmp_path: Path) -> None:
    clock = FakeClock()
    parts = make_parts(tmp_path, clock=clock, signed_url__secret_key=KEY)
    parts = with_tokens(parts, Tokens({"alice": Identity("p", "user", frozenset({"member"}), None, clock() + 999)}))

    def signed(seconds: float) -> dict[str, Any]:
        expires = format_time(clock() + seconds)
        signature = parts.signed_urls.sign(project="p", paths=[PATH], methods=["GET"], expires=expires)
        return {"URL-Signature": signature, "URL-Paths": [PATH], "URL-Methods": ["GET"], "URL-Expires": expires}

    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await poster.request("authenticate", {"X-Auth-Token": "alice"})
            assert (await client.request("stream_open", queue_name="q", credit=2))[0] == 403
            headers = signed(1)
            for name, status in (("other", 403), ("q", 200)):
                answer = await client.request("stream_open", headers, queue_name=name, credit=2)
                assert answer[0] == status
            await post(poster, 1)
            assert await messages(client, 1) == [1]
            assert (await client.request("stream_credit", headers, queue_name="q", credit=2))[0] == 204
            assert await client.is_quiet()
            # Nothing wakes the stream but its timer, which has the second of the signature.
            clock.advance(1)
            bye = await client.frame()
            assert (bye["event"], bye["data"]) == ("bye", {"reason": "expired"})
            await post(poster, 2)
            assert await client.is_quiet()
            # The connection stays, and so does the reader's position.
            await client.send("stream_open", signed(60), queue_name="q", credit=1, marker=bye["id"])
            assert (await client.reply())[0] == 200
            assert await messages(client, 1) == [2]
            status, answer = await client.request(
                "message_list", signed(60), queue_name="q", wait=20, marker=bye["id"], echo=False
            )
            assert bodies(answer) == [2]
            status, _ = await client.request("message_list", signed(60), queue_name="none", wait=20)
            assert status == 403
            # A request that waits ends with the signature as well.
            newest, began = answer["messages"][-1]["id"], time.monotonic()
            waited = await client.request("message_list", signed(1), queue_name="q", wait=20, marker=newest)
            assert (waited[0], waited[1]["messages"]) == (200, [])
            assert time.monotonic() - began < 20

    run(script, parts)


def test_streams_end_when_the_client_authenticates_for_another_project(tmp_path: Path) -> None:
    end = time.time() + 3600
    alice, bob = (Identity(project, "user", frozenset({"member"}), None, end) for project in (PROJECT, "other"))
    parts = with_tokens(make_parts(tmp_path), Tokens({"alice": alice, "newer": alice, "bob": bob}))

    async def script(service: Service) -> None:
        async with service.client(project=PROJECT) as client, service.client(project=PROJECT) as poster:
            for each in (client, poster):
                assert (await each.request("authenticate", {"X-Auth-Token": "alice"}))[0] == 200
            await follow(client)
            await client.request("authenticate", {"X-Auth-Token": "newer"})
            await post(poster, 1)
            assert await messages(client, 1) == [1]
            client.project = "other"
            assert (await client.request("authenticate", {"X-Auth-Token": "bob"}))[0] == 200
            await post(poster, 2)
            bye = await client.frame()
            assert (bye["event"], bye["data"]) == ("bye", {"reason": "expired"})
            assert await client.is_quiet()
            assert service.waiting() == 0

    run(script, parts, end_subscriptions=lambda connection: None)


def test_a_connection_with_a_stream_is_not_idle(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await follow(client)
            # A connection without a stream is closed after a shorter time.
            async with service.client() as idle:
                assert await close_code(idle) == close_codes.IDLE
            await service.post(1)
            assert await messages(client, 1) == [1]
            await client.request("stream_close", queue_name="q")
            assert await close_code(client) == close_codes.IDLE

    run(script, make_parts(tmp_path), idle_timeout=0.8)


@pytest.mark.parametrize("reads_again", [False, True])
def test_a_client_that_does_not_read_is_closed_and_holds_nothing(tmp_path: Path, reads_again: bool) -> None:
    async def script(service: Service) -> None:
        async with service.client() as poster, service.client(max_queue=1) as client:
            await follow(client, credit=1000)
            for number in range(60):
                await post(poster, f"{number} " + "x" * 200_000)
            account = service.server._memory.replies
            await wait_until(lambda: account.total)
            # One batch, though there is far more.
            assert account.total < 1_000_000
            if reads_again:
                texts = await messages(client, 60)
                assert [text.split()[0] for text in texts] == [str(number) for number in range(60)]
            else:
                await wait_until(lambda: any(each._closing for each in service.connections))
                await service.until_waiting(0)
                assert await close_code(client) == close_codes.TRY_AGAIN_LATER
            await wait_until(lambda: not account.total)

    run(script, make_parts(tmp_path), write_timeout=PATIENCE if reads_again else 0.5)


# -- stores and reloads ----------------------------------------------------------------------------------------------


def test_a_stream_goes_on_when_its_store_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_sending, "_RETRY_SECONDS", 0.05)
    parts = make_parts(tmp_path)
    (store_ref,) = parts.placement.all_stores()
    read, failures = store_ref.store.messages.list_after, []

    def fail(**named: Any) -> Any:
        if len(failures) < 3:
            failures.append(1)
            raise StoreUnavailable
        return read(**named)

    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await follow(client)
            await post(poster, 1)
            assert await messages(client, 1) == [1]
            monkeypatch.setattr(store_ref.store.messages, "list_after", fail)
            await post(poster, 2, 3)
            assert await messages(client, 2) == [2, 3]
            assert len(failures) == 3

    run(script, parts)


def test_a_fault_ends_a_stream_and_the_log_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = make_parts(tmp_path)
    (store_ref,) = parts.placement.all_stores()

    def fail(**named: Any) -> Any:
        raise RuntimeError("a fault")

    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await follow(client)
            monkeypatch.setattr(store_ref.store.messages, "list_after", fail)
            await post(poster, 1)
            bye = await client.frame()
            assert (bye["event"], bye["data"]) == ("bye", {"reason": "error"})
            await service.until_waiting(0)
            assert (await client.request("queue_create", queue_name="q"))[0] == 204

    run(script, parts)
    assert "a fault" in caplog.text


def test_streams_outlive_a_reload(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)

    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await follow(client)
            anew = reload_parts(parts)
            service.server.use(anew, service.server._settings)
            await post(poster, 1)
            assert await messages(client, 1) == [1]
            # The stream reads with the new parts: a pool of the former ones is closed some time later.
            (connection,) = (each for each in service.connections if len(each.session.streams))
            await wait_until(lambda: connection.session.streams.all()[0].stream._streams is anew.streams)
            await client.request("stream_credit", queue_name="q", credit=1)
            await post(poster, 2)
            assert await messages(client, 1) == [2]

    run(script, parts)


def test_a_delayed_message_is_due_by_the_clock_of_the_service(tmp_path: Path) -> None:
    clock = FakeClock()

    async def script(service: Service) -> None:
        async with service.client() as client:
            await follow(client)
            await post(client, "late", delay=600, ttl=3000)
            await post(client, "early")
            assert await messages(client, 1) == ["early"]
            assert await client.is_quiet()
            clock.now += 600
            # Something wakes the stream.
            await post(client, "next")
            assert sorted(await messages(client, 2)) == ["late", "next"]

    run(script, make_parts(tmp_path, clock=clock))
