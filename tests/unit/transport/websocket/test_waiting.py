# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for messages, over real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.unit.transport.websocket.serving import (
    PATIENCE,
    Peer,
    Service,
    make_parts,
    reload_parts,
    run,
    wait_until,
)
from zaqar.model import QUEUE, QueueName
from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.action import Pending
from zaqar.transport.websocket.frame_checks import MAX_WAITING_FRAME

WAITS: dict[str, tuple[str, dict[str, Any]]] = {
    "claim": ("claim_create", {}),
    "list": ("message_list", {"echo": True}),
    "pop": ("message_delete_many", {"pop": 1}),
}
"""An action of each kind that waits, with its body."""


@pytest.fixture
def store() -> str:
    """The driver of the stores; tests/conformance/waiting runs some of these tests on SQLite."""
    return "memory"


async def post(client: Peer, *bodies: Any, queue: str = "q", **fields: Any) -> None:
    messages = [{"body": body, "ttl": 300, **fields} for body in bodies]
    status, reply = await client.request("message_post", queue_name=queue, messages=messages)
    assert status == 201, reply


async def free(client: Peer, queue: str = "q") -> int:
    """Number of free messages."""
    _, stats = await client.request("queue_get_stats", queue_name=queue)
    count: int = stats["messages"]["free"]
    return count


def bodies(answer: Any) -> list[Any]:
    return [message["body"] for message in answer["messages"]]


async def close_code(client: Peer) -> int:
    """The code with which the server closes; frames that come before are dropped."""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionClosed):
            async for _ in client.library:
                pass
        await client.library.wait_closed()
    return client.library.close_code or 0


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
@pytest.mark.parametrize("kind", WAITS)
def test_a_request_waits_for_a_post(tmp_path: Path, kind: str, packs: bool, store: str) -> None:
    async def script(service: Service) -> None:
        async with service.client(packs=packs) as waiting, service.client() as poster:
            action, body = WAITS[kind]
            await waiting.send(action, queue_name="q", wait=20, **body)
            await service.until_waiting(1)
            await post(poster, {"n": 1})
            began = time.monotonic()
            status, answer = await waiting.reply()
            assert status == (201 if kind == "claim" else 200)
            assert bodies(answer) == [{"n": 1}]
            # Long before the time is over.
            assert time.monotonic() - began < 10
            assert service.waiting() == 0

    run(script, make_parts(tmp_path, store=store))


def test_a_wait_without_a_message_ends_with_the_usual_empty_answer(tmp_path: Path) -> None:
    async def wait_in_vain(service: Service, kind: str) -> None:
        async with service.client() as client:
            action, body = WAITS[kind]
            began = time.monotonic()
            waited = await client.request(action, queue_name="q", wait=1, **body)
            assert time.monotonic() - began >= 1
            assert waited == await client.request(action, queue_name="q", **body)

    async def script(service: Service) -> None:
        await asyncio.gather(*(wait_in_vain(service, kind) for kind in WAITS))

    run(script, make_parts(tmp_path))


@pytest.mark.parametrize("kind", WAITS)
def test_a_request_does_not_wait_for_messages_that_are_there(tmp_path: Path, kind: str) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            action, body = WAITS[kind]
            await post(client, 1)
            began = time.monotonic()
            _, answer = await client.request(action, queue_name="q", wait=20, **body)
            assert bodies(answer) == [1]
            assert time.monotonic() - began < 10

    run(script, make_parts(tmp_path))


@pytest.mark.parametrize(
    ("action", "body", "sentence"),
    [
        ("claim_create", {"wait": 21}, "wait: must be from 0 to 20, not 21"),
        ("message_list", {"wait": -1}, "wait: must be from 0 to 20, not -1"),
        ("claim_create", {"wait": 1.5}, "wait: must be of type integer"),
        ("claim_create", {"wait": True}, "wait: must be of type integer"),
        ("claim_create", {"wait": None}, "wait: must be of type integer"),
        (
            "message_delete_many",
            {"message_ids": ["x"], "wait": 1},
            "wait: must not be given together with 'message_ids'",
        ),
        (
            "claim_create",
            {"wait": 1, "more": "x" * MAX_WAITING_FRAME},
            "wait: a request that waits has at most 4096 bytes",
        ),
    ],
)
def test_a_wrong_wait_is_refused(tmp_path: Path, action: str, body: dict[str, Any], sentence: str) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await post(client, 1)
            status, answer = await client.request(action, queue_name="q", **body)
            assert status == 400
            assert answer["error"].startswith(sentence)
            assert await free(client) == 1

    run(script, make_parts(tmp_path))


def test_the_operator_can_switch_waiting_off(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            assert (await client.request("claim_create", queue_name="q", wait=1))[0] == 400
            assert (await client.request("claim_create", queue_name="q", wait=0))[0] == 204

    run(script, make_parts(tmp_path, transport__max_wait=0))


@pytest.mark.parametrize("option", ["max_waiting_clients", "max_waiting_clients_per_project"])
def test_a_request_above_the_limit_gets_a_true_answer_at_once(tmp_path: Path, option: str) -> None:
    async def script(service: Service) -> None:
        async with service.client() as first, service.client() as second, service.client() as poster:
            await first.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            await second.send("claim_create", queue_name="q", wait=20)
            reply = await second.whole_reply()
            assert reply["headers"] == {"status": 204, "Retry-After": 1}
            assert reply["body"] == {"claim_id": None}
            # If there is a message, the answer is not empty, although others wait for the queue.
            await post(poster, 1, 2)
            assert bodies((await first.reply())[1]) == [1, 2]

    run(script, make_parts(tmp_path, **{f"transport__{option}": 1}))


def test_stages_see_the_answer_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is made in a thread, because a stage may block."""
    monkeypatch.setattr(Pending, "ends_at_once", False)
    ended: list[str] = []
    end = Pending.end

    def note(pending: Pending[Any]) -> Any:
        ended.append(threading.current_thread().name)
        return end(pending)

    monkeypatch.setattr(Pending, "end", note)

    async def wait_in_vain(service: Service, kind: str) -> None:
        async with service.client() as client:
            action, body = WAITS[kind]
            assert (await client.request(action, queue_name="q", wait=1, **body))[0] in (200, 204)

    async def script(service: Service) -> None:
        await asyncio.gather(*(wait_in_vain(service, kind) for kind in WAITS))

    run(script, make_parts(tmp_path))
    assert len(ended) == len(WAITS)
    assert all(thread.startswith("request") for thread in ended)


# -- order and fairness ----------------------------------------------------------------------------------------------


def test_waiting_claims_are_served_in_their_order_and_a_post_costs_one_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make_parts(tmp_path)
    (store_ref,) = parts.placement.all_stores()
    claims: list[float] = []
    claim = store_ref.store.claims.claim
    monkeypatch.setattr(store_ref.store.claims, "claim", lambda **named: claims.append(1) or claim(**named))

    async def script(service: Service) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(service.client()) for _ in range(5)]
            poster = await stack.enter_async_context(service.client())
            for number, client in enumerate(clients, 1):
                await client.send("claim_create", queue_name="q", wait=20, limit=2)
                await service.until_waiting(number)
            before = len(claims)
            for number, client in enumerate(clients):
                await post(poster, number)
                assert bodies((await client.reply())[1]) == [number]
                assert len(claims) == before + number + 1

    run(script, parts)


def test_requests_behind_one_that_waits_are_answered_after_it(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await client.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            for number in range(3):
                await client.send("queue_create", queue_name=f"q{number}")
            assert await client.is_quiet()
            await post(poster, 1)
            actions = [(await client.whole_reply())["request"]["action"] for _ in range(4)]
            assert actions == ["claim_create", *3 * ["queue_create"]]

    run(script, make_parts(tmp_path))


def test_notifications_are_pushed_while_a_request_waits(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client, service.client() as poster:
            await client.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            (connection,) = (each for each in service.connections if each._wait.is_waiting)
            await connection.push(['{"pushed": 1}', '{"pushed": 2}'])
            assert [await client.frame(), await client.frame()] == [{"pushed": 1}, {"pushed": 2}]
            await post(poster, 1)
            assert bodies((await client.reply())[1]) == [1]

    run(script, make_parts(tmp_path))


def test_three_hundred_waiting_claims_hold_no_thread(tmp_path: Path, store: str) -> None:
    async def script(service: Service) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(service.client()) for _ in range(300)]
            # The first one waits before the others come: the order among many connections is that of threads.
            await clients[0].send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            for client in clients[1:]:
                await client.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(300)
            await wait_until(lambda: not service.server.is_busy)
            # Another request on each of many connections of the same project, which may have 16 threads.
            others = [await stack.enter_async_context(service.client()) for _ in range(50)]
            answers = await asyncio.gather(*(each.request("queue_create", queue_name="other") for each in others))
            assert {status for status, _ in answers} <= {201, 204}
            await post(others[0], *range(5))
            # One request has all messages, and the others still wait.
            await service.until_waiting(299)
            assert bodies((await clients[0].reply())[1]) == list(range(5))
            ending = asyncio.ensure_future(service.server.stop())
            for client in clients[1:]:
                assert await client.reply() == (204, {"claim_id": None})
                with pytest.raises(ConnectionClosed) as caught:
                    await client.reply()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == close_codes.GOING_AWAY
            await ending

    run(script, make_parts(tmp_path, store=store), threads=64)


# -- the end of the connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "abort", "abort behind unread requests"])
def test_no_message_is_taken_for_a_client_that_has_closed(tmp_path: Path, way: str) -> None:
    async def script(service: Service) -> None:
        async with service.client() as poster:
            async with service.client() as client:
                await client.send("claim_create", queue_name="q", wait=20)
                await service.until_waiting(1)
                if way == "abort behind unread requests":
                    # The server does not read these requests now, nor those after them.
                    for _ in range(50):
                        await client.send("queue_get_stats", queue_name="q", more="x" * 1000)
                    await asyncio.sleep(0.1)
                if way == "close":
                    await client.library.close()
                else:
                    client.library.transport.close()
                    await client.library.wait_closed()
            if way != "abort behind unread requests":
                # At once, and not when the time is over.
                await service.until_waiting(0)
            await post(poster, 1)
            await service.until_waiting(0)
            assert await free(poster) == 1

    run(script, make_parts(tmp_path))


@pytest.mark.parametrize("wait", [0, 20])
def test_a_claim_is_released_if_its_reply_cannot_be_sent(
    tmp_path: Path, wait: int, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    parts = make_parts(tmp_path, store=store)

    async def script(service: Service) -> None:
        (store_ref,) = parts.placement.all_stores()
        loop, claim = asyncio.get_running_loop(), store_ref.store.claims.claim
        has_claimed = threading.Event()

        def claim_and_lose_the_client(**named: Any) -> Any:
            taken = claim(**named)
            if taken:
                (connection,) = (each for each in service.connections if each.id != own)
                loop.call_soon_threadsafe(connection.abort)
                # Until the server knows.
                while (
                    service.server.connections.find(connection.id) and connection._socket.protocol.state.name == "OPEN"
                ):
                    time.sleep(0.001)
                has_claimed.set()
            return taken

        async with service.client() as poster:
            await free(poster)
            own = service.connections[0].id
            monkeypatch.setattr(store_ref.store.claims, "claim", claim_and_lose_the_client)
            if not wait:
                await post(poster, 1)
            async with service.client() as client:
                await client.send("claim_create", queue_name="q", wait=wait)
                if wait:
                    await service.until_waiting(1)
                    await post(poster, 1)
                with pytest.raises(ConnectionClosed):
                    await client.reply()
            await asyncio.to_thread(has_claimed.wait, PATIENCE)
            while await free(poster) != 1:
                await asyncio.sleep(0.01)

    run(script, parts)


def test_a_claim_is_released_if_the_write_of_the_reply_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks while the claim is made, and the protocol does not know yet."""
    parts = make_parts(tmp_path)

    async def script(service: Service) -> None:
        async with service.client() as poster, service.client() as client:
            await post(poster, 1)
            await client.request("queue_create", queue_name="q")
            (connection,) = (
                each
                for each in service.connections
                if each._socket.remote_address[1] == client.library.local_address[1]
            )
            send = connection._socket.send

            async def lose_and_send(frame: Any) -> None:
                connection.abort()
                await send(frame)

            monkeypatch.setattr(connection._socket, "send", lose_and_send)
            with pytest.raises(ConnectionClosed):
                await client.request("claim_create", queue_name="q")
            while await free(poster) != 1:
                await asyncio.sleep(0.01)

    run(script, parts)


def test_a_client_that_closes_after_its_reply_keeps_its_claim(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as poster:
            await post(poster, 1)
            async with service.client() as client:
                status, _ = await client.request("claim_create", queue_name="q")
                assert status == 201
            await wait_until(lambda: len(service.connections) == 1)
            assert await free(poster) == 0

    run(script, make_parts(tmp_path))


def test_a_connection_whose_token_expires_has_its_answer_first(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await client.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            service.connections[0].close(*close_codes.EXPIRED)
            assert await client.reply() == (204, {"claim_id": None})
            with pytest.raises(ConnectionClosed) as caught:
                await client.reply()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == close_codes.AUTHENTICATION_EXPIRED

    run(script, make_parts(tmp_path))


def test_a_waiting_request_is_no_idle_connection(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        async with service.client() as client:
            await client.send("claim_create", queue_name="q", wait=20)
            await service.until_waiting(1)
            # A connection without a waiting request is closed after a shorter time.
            async with service.client() as idle:
                assert await close_code(idle) == close_codes.IDLE
            await service.post(1)
            assert bodies((await client.reply())[1]) == [1]

    run(script, make_parts(tmp_path), idle_timeout=1.0)


# -- a reload --------------------------------------------------------------------------------------------------------


def test_waiters_outlive_a_reload(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)

    async def script(service: Service) -> None:
        async with service.client() as early, service.client() as late, service.client() as poster:
            await early.send("claim_create", queue_name="q", wait=20, limit=1)
            await service.until_waiting(1)
            anew = reload_parts(parts, transport__max_waiting_clients=2)
            service.server.use(anew, service.server._settings)
            await late.send("claim_create", queue_name="q", wait=20, limit=1)
            await service.until_waiting(2)
            # The new limit counts requests that began to wait before the reload.
            async with service.client() as third:
                await third.send("claim_create", queue_name="q", wait=20)
                assert (await third.whole_reply())["headers"]["Retry-After"] == 1
            await post(poster, 1, 2)
            assert bodies((await early.reply())[1]) == [1]
            assert bodies((await late.reply())[1]) == [2]

    run(script, parts)


def test_the_address_of_a_waiter_is_that_of_the_request(tmp_path: Path) -> None:
    """A queue and a topic of the same name, and of two projects, are not mixed up."""

    async def script(service: Service) -> None:
        async with service.client() as client, service.client(project="other") as other:
            await client.send("message_list", topic_name="q", wait=20, echo=True)
            await service.until_waiting(1)
            assert not service.parts.hub.registry.has_takers(QueueName("p", QUEUE, "q"))
            await post(other, 1)
            await post(other, 2, queue="q2")
            assert await client.is_quiet(0.3)

    run(script, make_parts(tmp_path))
