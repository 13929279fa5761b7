# SPDX-License-Identifier: Apache-2.0
"""All promises about messages: random calls have the same results as the memory driver, and the invariants hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.clock import TICK
from tests.conformance.drivers import Driver
from tests.conformance.store_state_machine import REACHED, StoreStateMachine
from tests.conformance.test_fences import OPERATIONS
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryMessageStore


def machine_for(driver: Driver, messages: MessageStore, reached: Counter[str]) -> StoreStateMachine:
    return StoreStateMachine(messages, None if driver.name == "memory" else MemoryMessageStore(), reached)


def test_random_operations_have_the_results_of_the_memory_driver(driver: Driver, messages: MessageStore) -> None:
    def machine() -> StoreStateMachine:
        return machine_for(driver, messages, Counter())

    # With a server each step is a few round trips, and finds come early: the first examples are the same everywhere.
    examples = 100 if driver.server is None else 10 if driver.server == "mongodb" else 20
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=50))  # type: ignore[arg-type]


def walk(machine: StoreStateMachine, steps: int, random: Random) -> None:
    """A long life of two queues. What hypothesis finds is short; this wanders where only many steps lead."""

    def side() -> int:
        return int(random.random() < 0.3)

    def pick() -> int:
        return min(int(random.expovariate(0.7)), 9)

    def lives() -> list[tuple[int, int]]:
        return [
            (random.choice([60, 120, 600, 3600, 3600]), random.choice([0, 0, 0, 10, 60, 90]))
            for _ in range(random.randint(1, 4))
        ]

    turns: list[tuple[int, Callable[[], None]]] = [
        (26, lambda: machine.post(side(), lives(), random.choice("ab"))),
        (
            16,
            lambda: machine.claim(
                side(),
                random.randint(1, 4),
                random.choice([60, 120, 600]),
                random.choice([60, 300]),
                random.choice([None, None, None, (1, None), (2, 60), (2, 600), (3, None)]),
            ),
        ),
        (3, lambda: machine.claim_and_release(side(), random.randint(1, 4))),
        (
            5,
            lambda: machine.renew_claim(side(), pick(), random.choice([None, 60, 200]), random.choice([None, 60, 600])),
        ),
        (3, lambda: machine.release_claim(side(), pick())),
        (3, lambda: machine.get_claim(side(), pick())),
        (5, lambda: machine.delete_with_its_claim(side(), pick())),
        (3, lambda: machine.delete_message(side(), pick(), random.choice([None, pick()]))),
        (2, lambda: machine.delete_messages(side(), {pick(), pick()}, random.choice([None, [pick(), pick()]]))),
        (2, lambda: machine.delete_a_whole_claim(side(), pick())),
        (2, lambda: machine.pop(side(), random.randint(1, 2))),
        (2, lambda: machine.get_messages(side(), [pick(), pick(), machine.posted // 2])),
        (
            4,
            lambda: machine.list_messages(
                side(),
                pick() * 3,
                random.randint(1, 5),
                random.choice([None, "a"]),
                random.random() < 0.5,
                random.random() < 0.5,
            ),
        ),
        (6, lambda: machine.advance(random.choice([TICK, 1, 5]))),
        (10, lambda: machine.advance_to_a_timer(pick(), random.choice([-TICK, 0.0, TICK]))),
        (1, lambda: machine.raise_generation(side())),
        (1, lambda: machine.act_on_a_stale_queue(pick(), random.choice(sorted(OPERATIONS)))),
        (1, lambda: machine.sweep()),
    ]
    for step in range(steps):
        if step % 100 == 99:
            machine.start_over(side(), random.random() < 0.5)
        random.choices([turn for _, turn in turns], [weight for weight, _ in turns])[0]()
        machine.what_always_holds()


def test_a_long_random_walk_keeps_the_invariants(driver: Driver, messages: MessageStore) -> None:
    # A thousand steps take MongoDB a minute, for the majority of each.
    for seed in (1,) if driver.server == "mongodb" else (1, 2, 3):
        reached: Counter[str] = Counter()
        machine = machine_for(driver, messages, reached)
        walk(machine, 1000, Random(seed))
        machine.teardown()
        assert [what for what in REACHED if not reached[what]] == []
