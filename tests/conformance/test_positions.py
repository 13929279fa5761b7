# SPDX-License-Identifier: Apache-2.0
"""How far queues are, for clients that wait for them: exact at every moment, and no look changes anything."""

from __future__ import annotations

import pytest

from tests.clock import TICK
from tests.conformance.scene import Scene, new_queue
from zaqar.model import DeadLetters, QueuePosition

NEVER_OPENED = new_queue().uid


def position_of(scene: Scene) -> QueuePosition:
    found = scene.store.queues.positions(uids=[scene.queue.uid], now=scene.now)
    assert list(found) == [scene.queue.uid]
    return found[scene.queue.uid]


def test_an_empty_queue(scene: Scene) -> None:
    assert position_of(scene) == QueuePosition(last=0, free=False, next_due=None)


def test_posts(scene: Scene) -> None:
    scene.post("a")
    assert position_of(scene) == QueuePosition(1, True, None)
    scene.post("b", "c")
    assert position_of(scene) == QueuePosition(3, True, None)


def test_the_last_number_stays_when_its_message_is_gone(scene: Scene) -> None:
    _, number = scene.post("a", "b")
    scene.delete(number)
    assert position_of(scene) == QueuePosition(2, True, None)
    scene.pop()
    assert position_of(scene) == QueuePosition(2, False, None)


def test_a_delay(scene: Scene) -> None:
    scene.post("a", delay=60)
    end = scene.now + 60
    assert position_of(scene) == QueuePosition(1, False, end)
    scene.clock.advance(60 - TICK)
    assert position_of(scene) == QueuePosition(1, False, end)
    scene.clock.advance(TICK)
    assert position_of(scene) == QueuePosition(1, True, None)
    assert len(scene.claim()[1]) == 1


def test_a_claim_and_its_end(scene: Scene) -> None:
    scene.post("a", "b")
    scene.claim(1, ttl=60)
    end = scene.now + 60
    assert position_of(scene) == QueuePosition(2, True, end)
    scene.claim(1, ttl=90)
    assert position_of(scene) == QueuePosition(2, False, end)
    scene.clock.advance(60 - TICK)
    assert position_of(scene) == QueuePosition(2, False, end)
    scene.clock.advance(TICK)
    assert position_of(scene) == QueuePosition(2, True, end + 30)
    assert len(scene.claim(ttl=300)[1]) == 1
    assert position_of(scene) == QueuePosition(2, False, end + 30)


def test_a_release(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim()
    scene.release(claim_id)
    assert position_of(scene) == QueuePosition(1, True, None)


def test_a_renewal(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=60)
    scene.clock.advance(30)
    scene.renew(claim_id, ttl=300)
    assert position_of(scene) == QueuePosition(1, False, scene.now + 300)


def test_a_message_that_is_deleted_while_it_is_claimed_is_not_due(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, (first, second) = scene.claim(ttl=60)
    scene.delete(first.sequence, claim_id)
    assert position_of(scene) == QueuePosition(2, False, scene.now + 60)
    scene.delete(second.sequence, claim_id)
    assert position_of(scene) == QueuePosition(2, False, None)


def test_the_earliest_end_comes_first(scene: Scene) -> None:
    scene.post("late", delay=300)
    scene.post("soon", delay=60)
    scene.post("a")
    scene.claim(ttl=120)
    ends = [scene.now + seconds for seconds in (60, 120, 300)]
    for end in ends:
        assert position_of(scene).next_due == end
        scene.clock.now = end
    assert position_of(scene) == QueuePosition(3, True, None)


def test_what_has_expired_is_not_free(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.post("delayed", ttl=60, delay=30)
    scene.clock.advance(60 - TICK)
    assert position_of(scene) == QueuePosition(2, True, None)
    scene.clock.advance(TICK)
    assert position_of(scene) == QueuePosition(2, False, None)


def test_one_that_lives_behind_some_that_have_expired_is_free(scene: Scene) -> None:
    scene.post(*["x"] * 20, ttl=60)
    scene.post("lives")
    scene.post(*["x"] * 20, ttl=60)
    scene.clock.advance(60)
    assert position_of(scene) == QueuePosition(41, True, None)
    scene.pop()
    assert position_of(scene) == QueuePosition(41, False, None)


@pytest.mark.parametrize("delay", [0, 30])
def test_one_that_lives_behind_very_many_that_have_expired_is_free(scene: Scene, delay: int) -> None:
    scene.post(*["x"] * 300, ttl=60, delay=delay)
    scene.post("lives", delay=delay)
    scene.clock.advance(60)
    assert position_of(scene) == QueuePosition(301, True, None)
    assert len(scene.claim()[1]) == 1
    scene.clock.advance(2)  # until then they may live by the clock of another host
    assert scene.claim()[1] == []
    assert not position_of(scene).free


def test_an_expired_message_that_was_claimed_is_not_free(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.claim(ttl=120, grace=0)
    scene.clock.advance(120)
    assert position_of(scene) == QueuePosition(1, False, None)


def test_a_purge(scene: Scene) -> None:
    scene.post("a", "b")
    scene.post("delayed", delay=60)
    scene.claim(1)
    scene.purge()
    assert position_of(scene) == QueuePosition(3, False, None)
    scene.post("c")
    assert position_of(scene) == QueuePosition(4, True, None)


def test_a_dropped_queue_and_one_that_never_was_are_absent(scene: Scene) -> None:
    scene.post("a")
    scene.drop()
    assert scene.store.queues.positions(uids=[scene.queue.uid, NEVER_OPENED, "nonsense"], now=scene.now) == {}
    assert scene.store.queues.positions(uids=[], now=scene.now) == {}


def test_several_queues_in_one_call(scene: Scene) -> None:
    others = [scene.beside(f"other-{n}") for n in range(20)]
    scene.post("a")
    for n, other in enumerate(others):
        if n:
            other.post(*["x"] * n, delay=60 + n if n % 2 else 0)
    uids = [scene.queue.uid, NEVER_OPENED, *(other.queue.uid for other in others)]
    found = scene.store.queues.positions(uids=uids, now=scene.now)
    assert found == {
        scene.queue.uid: QueuePosition(1, True, None),
        **{
            other.queue.uid: QueuePosition(n, n > 0 and n % 2 == 0, scene.now + 60 + n if n % 2 else None)
            for n, other in enumerate(others)
        },
    }
    for other in others:
        other.drop()


def test_five_hundred_uids(scene: Scene) -> None:
    scene.post("a")
    uids = {scene.queue.uid, *(new_queue().uid for _ in range(499))}
    assert scene.store.queues.positions(uids=uids, now=scene.now) == {scene.queue.uid: QueuePosition(1, True, None)}


def test_the_generation_does_not_matter(scene: Scene) -> None:
    scene.post("a")
    scene.raise_generation()
    scene.post("b")
    assert position_of(scene) == QueuePosition(2, True, None)


def test_dead_letters_count_in_the_queue_that_they_are_moved_to(scene: Scene) -> None:
    letters = scene.beside("dead")
    scene.post("a", "b")
    scene.wear_out(1, times=2)
    assert len(scene.claim(dead_letters=DeadLetters(letters.queue, 2))[1]) == 1
    assert position_of(letters) == QueuePosition(1, True, None)
    assert position_of(scene) == QueuePosition(2, False, scene.now + 60)
    letters.drop()


def test_a_look_changes_nothing(scene: Scene) -> None:
    """Also a look by a clock that is ahead: nothing is put into another state for who comes later by another one."""
    scene.post("delayed", delay=60)
    scene.post("a", ttl=90)
    claim_id, _ = scene.claim(ttl=60, grace=30)
    before = scene.list_everything()
    ahead = scene.store.queues.positions(uids=[scene.queue.uid], now=scene.now + 75)
    assert ahead[scene.queue.uid] == QueuePosition(2, True, None)
    assert scene.list_everything() == before
    assert position_of(scene) == QueuePosition(2, False, scene.now + 60)
    assert len(scene.get_claim(claim_id)[1]) == 1


# -- the end of a delay, in messages ----------------------------------------------------------------------------------


def test_a_delayed_message_says_when_it_is_due(scene: Scene) -> None:
    scene.post("a")
    scene.post("delayed", delay=60)
    scene.post("later", delay=90)
    dues = [None, scene.now + 60, scene.now + 90]
    assert [message.due for message in scene.listing(delayed=True)] == dues
    assert [message.due for message in scene.list_everything()] == dues
    assert [message.due for message in scene.get(1, 2, 3)] == dues
    assert [message.due for message in scene.listing()] == [None]


def test_a_message_whose_delay_has_ended_is_not_due(scene: Scene) -> None:
    scene.post("delayed", delay=60)
    end = scene.now + 60
    scene.clock.advance(60 - TICK)
    assert [message.due for message in [*scene.get(1), *scene.listing(delayed=True)]] == [end, end]
    scene.clock.advance(TICK)
    assert [message.due for message in [*scene.get(1), *scene.listing(delayed=True)]] == [None, None]


def test_a_claimed_message_is_not_due(scene: Scene) -> None:
    """Its claim may end earlier: by a release. So no reader could rely on that."""
    scene.post("a")
    scene.post("delayed", delay=10)
    scene.clock.advance(10)
    claim_id, taken = scene.claim()
    assert [message.due for message in taken] == [None, None]
    assert [message.due for message in scene.listing(claimed=True)] == [None, None]
    assert [message.due for message in scene.get(1, 2)] == [None, None]
    assert [message.due for message in scene.get_claim(claim_id)[1]] == [None, None]
    scene.clock.advance(60)
    assert [message.due for message in [*scene.get(1, 2), *scene.listing()]] == [None] * 4
