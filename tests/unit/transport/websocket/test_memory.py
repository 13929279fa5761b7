# SPDX-License-Identifier: Apache-2.0
"""The connections that get bytes of a pool, and the connections that wait."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from zaqar.transport.websocket.memory import Account, Pool


def account(pool: Pool, project: str) -> Account:
    made = Account(pool)
    made.enter(project)
    return made


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_project_has_a_quarter_and_others_the_rest() -> None:
    async def script() -> None:
        pool = Pool(400)
        granted: list[str] = []
        greedy = [account(pool, "greedy") for _ in range(12)]
        taken = [each.take(10, lambda: granted.append("greedy")) for each in greedy]
        assert taken == [True] * 10 + [False] * 2
        assert account(pool, "modest").take(100, lambda: None)
        assert granted == []
        greedy[0].give_back()
        await settle()
        assert granted == ["greedy"]
        assert (pool.held("greedy"), pool.total) == (100, 200)

    asyncio.run(script())


def test_three_greedy_projects_leave_the_last_quarter_to_those_that_hold_nothing() -> None:
    async def script() -> None:
        pool = Pool(400)
        for name in "abc":
            assert account(pool, name).take(100, lambda: None)
        late = [account(pool, f"late {number}") for number in range(5)]
        assert [each.take(20, lambda: None) for each in late] == [True] * 5
        assert not account(pool, "late 0").take(1, lambda: None)
        assert not account(pool, "one more").take(1, lambda: None)

    asyncio.run(script())


def test_a_message_larger_than_everything_is_taken_alone() -> None:
    async def script() -> None:
        pool = Pool(400)
        granted: list[str] = []
        first, second = account(pool, "a"), account(pool, "b")
        assert first.take(1_000, lambda: None)
        assert not second.take(1_000, lambda: granted.append("b"))
        first.give_back()
        await settle()
        assert granted == ["b"]
        second.give_back()
        assert pool.total == 0

    asyncio.run(script())


def test_projects_that_wait_are_served_in_turn_and_each_in_order() -> None:
    async def script() -> None:
        pool = Pool(400)
        granted: list[str] = []
        holders = [account(pool, f"holder {number}") for number in range(4)]
        for each in holders:
            assert each.take(100, lambda: None)
        for name in ("a1", "a2", "a3", "b1"):
            waiting = account(pool, name[0])
            assert not waiting.take(50, partial(granted.append, name))
        for each in holders:
            each.give_back()
        await settle()
        assert granted == ["a1", "b1", "a2"]

    asyncio.run(script())


def test_an_account_that_gives_up_or_changes_its_project_is_counted_right() -> None:
    async def script() -> None:
        pool = Pool(400)
        granted: list[str] = []
        holder, waiting = account(pool, "a"), account(pool, "a")
        assert holder.take(100, lambda: None)
        assert not waiting.take(50, lambda: granted.append("moved"))
        assert pool.has_waiting
        waiting.enter("b")
        await settle()
        assert granted == ["moved"]
        assert (pool.held("a"), pool.held("b")) == (100, 50)
        other = account(pool, "a")
        assert not other.take(50, lambda: granted.append("gone"))
        other.give_back()
        holder.give_back()
        waiting.give_back()
        await settle()
        assert granted == ["moved"]
        assert (pool.total, pool.has_waiting, pool.held("a")) == (0, False, 0)

    asyncio.run(script())


def test_a_task_that_is_cancelled_while_it_waits_or_just_after_holds_nothing() -> None:
    async def script() -> None:
        pool = Pool(400)
        holder, waiting = account(pool, "a"), account(pool, "a")
        for frees_first in (False, True):
            assert holder.take(100, lambda: None)
            task = asyncio.create_task(waiting.wait(50))
            await settle()
            if frees_first:
                holder.give_back()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            holder.give_back()
            assert (pool.total, pool.has_waiting) == (0, False)

    asyncio.run(script())


def test_connections_that_are_closed_already_are_dropped_if_their_project_waits() -> None:
    async def script() -> None:
        pool = Pool(400)
        dropped: list[str] = []
        slow, other = account(pool, "a"), account(pool, "b")
        for each in (slow, other):
            each.add(90, partial(dropped.append, each.project))
            each.is_spare = True
        assert account(pool, "b").take(10, lambda: None)
        assert dropped == []
        assert not account(pool, "a").take(20, lambda: None)
        assert dropped == ["a"]

    asyncio.run(script())


def test_the_largest_of_a_greedy_project_make_room_for_those_that_hold_nothing() -> None:
    async def script() -> None:
        pool = Pool(400)
        dropped: list[str] = []
        for name, project, size in [("small", "a", 60), ("large", "a", 260), ("other", "b", 90)]:
            account(pool, project).add(size, partial(dropped.append, name))
        # Their own project waits for them to be read.
        assert not account(pool, "a").take(0, lambda: None)
        assert dropped == []
        assert not account(pool, "c").take(0, lambda: None)
        assert dropped == ["large"]

    asyncio.run(script())
