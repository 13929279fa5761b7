# SPDX-License-Identifier: Apache-2.0
"""No frame breaks the service: frames that fit the table of actions or violate it, in both formats, with any headers.

Bytes that are no frames reach no store: those are in the unit tests of the session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.client import ALICE, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.sessions import answer
from zaqar.model import UID_LENGTH, message_id
from zaqar.schemas.fields import Validator
from zaqar.storage.base.nodes import Node
from zaqar.transport.websocket.action import Action, Field
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.session import Session

CONNECTION = "ab" * 16
NODE = "cd" * 12
SETTINGS = settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)


class Fuzzed:
    """A service, and the session of one connection to it."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.known = {"<uri>": f"sqlite:///{folder}/pool.db"}
        """The values of the placeholders in frames, such as the id of an existing message."""
        parts = api.parts
        parts.management.nodes.add(node=Node(NODE, "here", "127.0.0.1", 1, "", api.clock.now + 86_400, b"key"))
        parts.connection_subscriptions.serve_as(NODE)
        self._session = Session(parts, connection=CONNECTION)

    def close(self) -> None:
        """End the streams that the frames have opened."""
        self._session.streams.close()
        assert self.api.parts.hub.registry.waiting == 0

    def seed(self) -> None:
        """Create the resources that frames can name."""
        ids = self.api.send("q", 1, 2, 3)
        claim, claimed = self.api.claim("q", 1)
        made = self.api.post("/v2/queues/q/subscriptions", {"subscriber": f"http://192.0.2.1/{ids[0]}"})
        subscription = made.json["subscription_id"]
        self.known |= {"<message>": ids[-1], "<claimed>": claimed[0]["id"], "<claim>": claim}
        self.known |= {"<subscription>": subscription, "<delivery>": message_id(ids[0][:UID_LENGTH], 0)}
        pool = json.dumps({"uri": self.known["<uri>"], "weight": 1}).encode()
        self.api.parts.pools.put("p", pool)
        self.api.parts.flavors.put("f", b'{"pool_list":["p"]}')

    def fill_in(self, value: Any) -> Any:
        """The value with placeholders replaced."""
        if isinstance(value, str):
            return self.known.get(value, value)
        if isinstance(value, list):
            return [self.fill_in(item) for item in value]
        if isinstance(value, dict):
            return {name: self.fill_in(item) for name, item in value.items()}
        return value

    def send(self, frame: str | bytes) -> tuple[int, Any]:
        """The status and the body of the reply, which must have the form of a reply."""
        reply = answer(self._session, frame)
        assert isinstance(reply.frame, type(frame))
        document = json.loads(reply.frame) if isinstance(reply.frame, str) else msgpack.unpackb(reply.frame)
        assert set(document) == {"request", "body", "headers"}
        assert set(document["request"]) == {"action", "body", "api", "headers"}
        assert document["headers"] == {"status": reply.status}
        return reply.status, document["body"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    driver = DRIVERS["sqlite"]
    address = driver.prepare(tmp_path_factory.mktemp("fuzz"))
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    # Without Keystone there are no roles, and all actions have to be carried out.
    policy.write_text("".join(f'"{rule}": ""\n' for rule in ADMINISTRATION))
    options: dict[str, Any] = {
        "pooling": True,
        "pooling:catalog__enable_virtual_pool": True,
        "notification__require_confirmation": True,
        "notification__webhook_allowed_networks": ["192.0.2.0/24"],
        "signed_url__secret_key": "secret",
        "oslo_policy__policy_file": str(policy),
    }
    api = Api(driver, address, clock=FakeClock(), **options)
    made = Fuzzed(api, tmp_path_factory.mktemp("pool"))
    yield made
    made.close()
    api.close()


ADMINISTRATION = [
    *(f"pools:{verb}" for verb in ("get_all", "create", "get", "update", "delete")),
    *(f"flavors:{verb}" for verb in ("create", "update", "delete")),
    "health:get",
]

# -- values ----------------------------------------------------------------------------------------------------------

SUBSCRIPTION = "0123456789abcdef01234567"
WORDS = st.sampled_from(["q", "t", "x", "dead", "messages", "subscriptions", "GET", "/metadata/a", "", ".", "\x00"])
WORDS |= st.sampled_from([SUBSCRIPTION, SUBSCRIPTION + "000000000001", "sqlite:///:memory:", "a@b"])
WORDS |= st.sampled_from(["mailto:a@b", "http://192.0.2.1/", "websocket:a.b", "websocket:"])
NAMES = st.sampled_from(
    ["body", "ttl", "delay", "grace", "op", "path", "value", "messages", "uri", "weight", "options"]
)
NAMES |= st.sampled_from(["filter", "post_headers", "post_data", "_retry_policy", "_max_claim_count", "trust_id"])
NAMES |= st.sampled_from(["_dead_letter_queue", "_flavor"])
integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 21) | st.sampled_from([60, 300, 43_200, 2**31, 2**63 - 1])
# Text that both formats can encode.
texts = WORDS | st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
OF_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "string": texts,
    "integer": integers,
    "boolean": st.booleans(),
    "array": st.lists(values, max_size=5),
    "object": st.dictionaries(NAMES | st.text(max_size=5), values, max_size=5),
}


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"body": values}, optional={"ttl": st.integers(59, 400) | integers, "delay": st.integers(-1, 901) | integers}
    ),
    max_size=5,
)
IDS = {
    "message_id": st.sampled_from(["<message>", "<claimed>"]) | texts,
    "claim_id": st.just("<claim>") | texts,
    "subscription_id": st.just("<subscription>") | st.just("<subscription>") | texts,
    "delivery_id": st.just("<delivery>") | texts,
}
OF_NAME: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.just(name[0]) | st.just(name[0]) | texts for name in ("queue_name", "pool_name", "flavor_name")},
    "topic_name": st.just("t"),
    **IDS,
    "marker": IDS["message_id"],
    "message_ids": st.lists(IDS["message_id"], max_size=22),
    "claim_ids": st.lists(IDS["claim_id"], max_size=22),
    "messages": MESSAGES | OF_TYPE["array"],
    "limit": st.integers(0, 21),
    "pop": st.integers(0, 21),
    "wait": st.integers(-1, 21),
    "credit": st.integers(0, 100),
    "uri": st.just("<uri>") | texts,
    "pool_list": st.lists(st.just("p") | texts, max_size=2),
}
for _name in ("ttl", "grace", "weight"):
    OF_NAME[_name] = st.integers(59, 400) | integers


def value_of(name: str, field: Field) -> st.SearchStrategy[Any]:
    """Mostly valid values, so that the handler is reached."""
    if choices := field.schema.get("enum"):
        return st.sampled_from(choices) | texts
    return OF_NAME.get(name, OF_TYPE[field.type])


def body_of(action: Action) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with the required fields and some of the others, each of its type."""
    drawn = {name: value_of(name, field) for name, field in action.fields.items()}
    alternatives = {"queue_name", "topic_name"} & set(drawn)
    required = {
        name: drawn[name] for name, field in action.fields.items() if field.required and name not in alternatives
    }
    more = {name: strategy for name, strategy in drawn.items() if name not in required and name not in alternatives}
    bodies = st.fixed_dictionaries(required, optional=more)
    if not alternatives:
        return bodies
    of = st.sampled_from(sorted(alternatives)).flatmap(lambda name: st.fixed_dictionaries({name: drawn[name]}))
    return st.tuples(bodies, of).map(lambda both: both[0] | both[1])


def any_body_of(action: Action) -> st.SearchStrategy[Any]:
    """Bodies whose fields have any type, are missing, or are unknown."""
    return st.dictionaries(st.sampled_from([*action.fields, "x"]), values, max_size=len(action.fields) + 1) | values


def encode(document: Any, *, binary: bool) -> str | bytes:
    packed: bytes = msgpack.packb(document)
    return packed if binary else json.dumps(document)


def request(fuzzed: Fuzzed, action: str, body: Any) -> dict[str, Any]:
    headers = {"Client-ID": ALICE, "X-Project-ID": fuzzed.api.project}
    return {"action": action, "headers": headers, "body": fuzzed.fill_in(body)}


# -- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIONS)
def test_frames_made_from_the_table_get_documented_replies(fuzzed: Fuzzed, name: str) -> None:
    action = ACTIONS[name]
    fuzzed.seed()
    schemas = {status: Validator(schema) for status, (_, schema) in action.answers.items() if schema is not None}

    @given(body=body_of(action), binary=st.booleans())
    @settings(SETTINGS, max_examples=30)
    def is_answered(body: dict[str, Any], binary: bool) -> None:
        status, answer = fuzzed.send(encode(request(fuzzed, name, body), binary=binary))
        assert status < 500, answer
        if status in schemas:
            schemas[status].check(answer)
        elif status < 400:
            assert status in action.answers

    is_answered()


@pytest.mark.parametrize("name", ACTIONS)
def test_frames_with_wrong_bodies_cause_no_server_error(fuzzed: Fuzzed, name: str) -> None:
    fuzzed.seed()

    @given(body=any_body_of(ACTIONS[name]), binary=st.booleans())
    @SETTINGS
    def is_answered(body: Any, binary: bool) -> None:
        status, answer = fuzzed.send(encode(request(fuzzed, name, body), binary=binary))
        assert status < 500, answer

    is_answered()


@given(
    headers=st.dictionaries(
        st.sampled_from(["Client-ID", "X-Project-ID", "X-Auth-Token", "URL-Signature", "URL-Paths", "URL-Methods"])
        | st.sampled_from(["URL-Expires", "EXTRA-SPEC", "X-Roles"])
        | st.text(max_size=5),
        values | st.sampled_from([ALICE, "project", "0" * 64, "GET", "2030-01-01T00:00:00", "/v2/queues/q/messages"]),
    )
    | values,
    action=st.sampled_from(sorted(ACTIONS)) | values,
    binary=st.booleans(),
)
@settings(SETTINGS, max_examples=200)
def test_no_header_of_a_frame_causes_a_server_error(fuzzed: Fuzzed, headers: Any, action: Any, binary: bool) -> None:
    frame = encode({"action": action, "headers": headers, "body": {"queue_name": "q"}}, binary=binary)
    status, answer = fuzzed.send(frame)
    assert status < 500, answer


def test_the_fuzzed_service_still_works_afterwards(fuzzed: Fuzzed) -> None:
    """To be run last: the stored data can be read, over HTTP too."""
    for path in ("queues", "queues/q/messages", "queues/q/subscriptions", "topics", "topics/t/subscriptions"):
        assert fuzzed.api.get(f"/v2/{path}?limit=20").status_code == 200
    posted = request(fuzzed, "message_post", {"queue_name": "after", "messages": [{"body": 1, "ttl": 60}]})
    assert fuzzed.send(encode(posted, binary=True))[0] == 201
    assert fuzzed.api.bodies("after") == [1]
