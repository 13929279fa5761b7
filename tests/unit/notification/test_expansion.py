# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from typing import Any

import pytest

from zaqar.model import CONFIRMED, PENDING, REFUSED, Delivery, Draft, Posted, Subscription
from zaqar.notification import expansion
from zaqar.notification.expansion import Expander

UID = "a" * 24


def subscription(id_: str, state: str = CONFIRMED, version: int = 1, **options: Any) -> Subscription:
    return Subscription(
        id_, UID, "p", "queue", "q", f"http://{id_}/", 60, 0.0, 60.0, options=options, state=state, version=version
    )


def posted(*bodies: bytes, delay: int = 0) -> Posted:
    return Posted(UID, 7, "c", 1000.0, tuple(Draft(body, 300, delay) for body in bodies))


def expand(post: Posted, *subscriptions: Subscription, require_confirmation: bool = False) -> list[tuple[str, int]]:
    made = Expander(require_confirmation=require_confirmation).deliveries(post, subscriptions)
    return [(delivery.subscription_id, delivery.number) for delivery, _ in made]


def test_one_for_each_message_and_subscription() -> None:
    made = expand(posted(b"1", b"2"), subscription("a"), subscription("b"))
    assert made == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]


def test_what_a_delivery_has_of_its_message() -> None:
    ((delivery, of),) = Expander(require_confirmation=False).deliveries(posted(b"[1]", delay=30), [subscription("a")])
    assert delivery == Delivery(UID, "a", 7, b"[1]", 300, 1000.0, "c", due=1030.0)
    assert of.id == "a"


@pytest.mark.parametrize(("required", "gets"), [(False, ["a", "b"]), (True, ["a"])])
def test_states(required: bool, gets: list[str]) -> None:
    subscriptions = [subscription("a"), subscription("b", PENDING), subscription("c", REFUSED)]
    made = expand(posted(b"1"), *subscriptions, require_confirmation=required)
    assert [id_ for id_, _ in made] == gets


def test_filters() -> None:
    made = expand(posted(b'{"n":1}', b'{"n":2}', b"[]"), subscription("a", filter={"n": [2]}), subscription("b"))
    assert made == [("b", 7), ("a", 8), ("b", 8), ("b", 9)]


def test_a_changed_filter_acts() -> None:
    expander = Expander(require_confirmation=False)
    post = posted(b'{"n":1}')
    for version, wanted in ((1, [2]), (2, [1])):
        made = expander.deliveries(post, [subscription("a", version=version, filter={"n": wanted})])
        assert len(list(made)) == version - 1


def test_filters_are_compiled_once_and_forgotten_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    compile_filter = expansion.compile_filter

    def note(policy: object, *, field: str) -> Any:
        compiled.append(policy)
        return compile_filter(policy, field=field)

    monkeypatch.setattr(expansion, "compile_filter", note)
    monkeypatch.setattr(expansion, "MOST_FILTERS", 2)
    expander = Expander(require_confirmation=False)

    def use(*ids: str) -> None:
        list(expander.deliveries(posted(b"1"), [subscription(id_, filter={id_: [1]}) for id_ in ids]))

    for _ in range(3):
        use("a", "b")
    assert len(compiled) == 2
    use("c")
    use("a")
    assert len(compiled) == 4


def test_a_filter_that_cannot_be_used_lets_all_pass(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert expand(posted(b"1"), subscription("a", filter={"n": []})) == [("a", 7)]
    assert "filter of subscription a" in caplog.text
