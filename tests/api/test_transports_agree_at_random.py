# SPDX-License-Identifier: Apache-2.0
"""HTTP and WebSocket give the same status to random requests, and the same contents afterwards.

If several fields are wrong, the one that an error names may differ: the types of a frame's fields are checked first.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.agreement import OPTIONS, TRANSPORTS, Row, World, send
from tests.api.client import JSON_PATCH, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS

REQUESTS = 250
VALUES: tuple[Any, ...] = (
    *(True, False, 0, 1, -1, 59, 60, 300, 43200, 43201, 2**31, 2**63 - 1, -(2**63), 1.0, 0.5, 1e22),
    *("", "x", "60", "true", "\u00e9", "a\0b", "a/b", "..", "x" * 65, "x" * 3000, "dead", "done"),
    *(
        "mailto:a@b.example",
        "https://192.0.2.1/h",
        "HTTPS://192.0.2.1/H",
        "trust+https://192.0.2.1/",
        "http://h:99999/",
    ),
    *("2100-01-01", "2100-01-01T00:00:00+25:00", "9999-12-31T23:59:59Z"),
    *([], [None], [1], ["x"], ["messages"], ["messages", "messages"], ["GET", "GET"], ["subscriptions"]),
    *({}, {"a": 1}, {"": None}, {"filter": {}}, {"post_data": ""}, {"_retry_policy": {}}, {"trust_id": ""}),
    {"post_headers": {"a": "b\r\n"}},
)
METADATA = (
    *("_max_messages_post_size", "_default_message_ttl", "_default_message_delay", "_dead_letter_queue"),
    *(
        "_dead_letter_queue_messages_ttl",
        "_max_claim_count",
        "_enable_encrypt_messages",
        "_retry_policy",
        "a",
        "_b",
        "",
    ),
)
TEXTS = (
    *("<m0>", "<m2>", "<t0>", "<sub>", "<tsub>", "<mail>", "<dead1>", "<foreign.m0>", "", "x", "a b", "\u00e9", "%"),
    *("a/b", "..", "?", "#", "a" * 200, "0" * 36, "f" * 24, "+", "a&b", "(", ".*", "^q", "(?i)Q", "x{1000}", "dead"),
)
NUMBERS = (0, 1, 2, 20, 21, -1, 2**63 - 1)
POINTERS = ("/metadata/a", "/metadata/", "/metadata", "a", "/metadata/a~2", "/metadata/_max_claim_count", "/x", 5)


class RandomRequests:
    """Makes random requests for a queue or a topic."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds: list[Callable[[], Row]] = [
            self._post,
            self._subscribe,
            self._change,
            self._share,
            self._purge,
            self._claim,
            self._renew,
            self._create,
            self._update,
            self._rotate,
            self._resend,
            lambda: self._list("message_list", "/messages", flags=("echo", "include_claimed", "include_delayed")),
            lambda: self._list("subscription_list", "/subscriptions"),
            lambda: self._list("delivery_list", f"/subscriptions/{self._sub}/deliveries", texts=("marker", "state")),
            lambda: self._list(f"{self._kind}_list", None, ("marker", "name"), ("detailed", "with_count")),
        ]

    def make(self) -> Row:
        self._kind, self._name, self._sub = self._random.choice((("queue", "q", "<sub>"), ("topic", "t", "<tsub>")))
        return self._random.choice(self._kinds)()

    def _fields(self, *names: str, probability: float = 0.6, **given: Any) -> dict[str, Any]:
        chosen = {name: self._value() for name in names if self._random.random() < probability}
        if self._random.random() < 0.15:
            chosen[self._random.choice(("x", "href", "id", "Body"))] = self._value()
        return {**given, **chosen}

    def _value(self) -> Any:
        return self._random.choice(VALUES)

    def _row(self, action: str, method: str, below: str, sent: Any, **more: Any) -> Row:
        body = {f"{self._kind}_name": self._name, **more.pop("named", {}), **more.pop("body", sent)}
        return Row(action, body, method, f"/v2/{self._kind}s/{self._name}{below}", sent, **more)

    def _below(self, action: str, method: str, below: str, sent: Any) -> Row:
        named = {"subscription_id": self._sub}
        return self._row(action, method, f"/subscriptions/{self._sub}{below}", sent, named=named)

    def _post(self) -> Row:
        messages = [self._fields("body", "ttl", "delay") for _ in range(self._random.randrange(3))]
        return self._row("message_post", "POST", "/messages", {"messages": messages})

    def _subscribe(self) -> Row:
        sent = self._fields("subscriber", "ttl", "options", subscriber="mailto:x@y.example")
        return self._row("subscription_create", "POST", "/subscriptions", sent)

    def _change(self) -> Row:
        return self._below("subscription_update", "PATCH", "", self._fields("subscriber", "ttl", "options"))

    def _share(self) -> Row:
        return self._row(f"{self._kind}_share", "POST", "/share", self._fields("paths", "methods", "expires"))

    def _purge(self) -> Row:
        return self._row(f"{self._kind}_purge", "POST", "/purge", {"resource_types": self._value()})

    def _claim(self) -> Row:
        self._kind, self._name = "queue", "q"
        return self._row("claim_create", "POST", "/claims", self._fields("ttl", "grace"))

    def _renew(self) -> Row:
        self._kind, self._name = "queue", "q"
        sent = self._fields("ttl", "grace")
        return self._row("claim_update", "PATCH", "/claims/<held>", sent, named={"claim_id": "<held>"})

    def _create(self) -> Row:
        self._name = "new"
        metadata = {self._random.choice(METADATA): self._value() for _ in range(self._random.randrange(1, 3))}
        return self._row(f"{self._kind}_create", "PUT", "", metadata, body={"metadata": metadata})

    def _update(self) -> Row:
        choose = self._random.choice
        operations: list[Any] = []
        for _ in range(self._random.randrange(3)):
            operation = {"op": choose(("add", "remove", "replace", "move", 1)), "path": choose(POINTERS)}
            operations.append(choose((operation, {**operation, "value": self._value()}, self._value())))
        patched = {"Content-Type": JSON_PATCH}
        return self._row(f"{self._kind}_update", "PATCH", "", operations, body={"patch": operations}, headers=patched)

    def _rotate(self) -> Row:
        return self._below("subscription_rotate_secret", "POST", "/rotate_secret", self._fields("grace"))

    def _list(
        self, action: str, below: str | None, texts: tuple[str, ...] = ("marker",), flags: tuple[str, ...] = ()
    ) -> Row:
        """Over HTTP the fields are a query. ``below`` is None for the list of all queues or topics."""
        of_each = {"limit": NUMBERS, **dict.fromkeys(texts, TEXTS), **dict.fromkeys(flags, (True, False))}
        fields = {name: self._random.choice(of) for name, of in of_each.items() if self._random.random() < 0.5}
        query = "&".join(f"{name}={_spell(value)}" for name, value in fields.items())
        if below is None:
            return Row(action, fields, "GET", f"/v2/{self._kind}s?{query}")
        named = {"subscription_id": self._sub} if action == "delivery_list" else {}
        return self._row(action, "GET", f"{below}?{query}", None, named=named, body=fields)

    def _resend(self) -> Row:
        return self._below("subscription_resend", "POST", "/resend", self._fields("state"))


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if str(value).startswith("<") else quote(str(value), safe="")


@pytest.mark.parametrize("seed", range(2))
def test_random_requests_have_the_same_status_and_effect_over_both_transports(tmp_path: Path, seed: int) -> None:
    driver, maker = DRIVERS["memory"], RandomRequests(seed)
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), **OPTIONS)
    foreign = World(api)
    worlds = {transport: World(api, foreign=foreign) for transport in TRANSPORTS}
    seen: Counter[int] = Counter()
    for _ in range(REQUESTS):
        row = maker.make()
        outcomes = [send(worlds[transport], row, transport, {}) for transport in TRANSPORTS]
        assert len({outcome.status for outcome in outcomes}) == 1, (row, outcomes)
        if row.method == "GET":
            assert len({outcome.error for outcome in outcomes}) == 1, (row, outcomes)
        seen[outcomes[0].status] += 1
    contents = [world.contents() for world in worlds.values()]
    assert contents == [contents[0]] * 3
    assert max(seen) < 500
    assert seen[400] > REQUESTS // 4
    assert seen[200] + seen[201] + seen[204] > REQUESTS // 12
    api.close()
