# SPDX-License-Identifier: Apache-2.0
"""Runs one operation over HTTP and over a WebSocket session, in both formats, and compares the results.

A :class:`Row` describes an operation as each transport spells it. :func:`run` carries it out three times, each time in
a project of its own whose queues and topics have the same contents (:class:`World`). It asserts that the status, the
text of an error, the answer and the contents afterwards are the same. The modules ``tests/api/test_transports_agree*``
and ``test_deployments_agree`` call it.

To add rows for other actions, write a module beside ``queues.py`` with a table ``ROWS`` (a dict of names and rows), and
name it in ``TABLES`` of ``tests/api/test_transports_agree.py``. ``World`` may need more contents for them. A text such
as ``<m0>`` in a row stands for an id of the world. The names are the keys of ``World.names``; ``<foreign.m0>`` is the
id in another project.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from tests.api.agreement.deliveries import MAIL, add_deliveries, subscriptions_of
from tests.api.client import ALICE, BOB, Api
from tests.sessions import answer as answer_frame
from zaqar.transport.websocket.session import Session

HTTP, JSON, MESSAGEPACK = "HTTP", "JSON frames", "MessagePack frames"
TRANSPORTS = (HTTP, JSON, MESSAGEPACK)
ALL_ROLES = {"X-Roles": "boss,admin"}
"""The headers of the caller that fills and reads worlds, for services whose policy restricts other callers."""

HOOK = "https://192.0.2.1/hook"
OPTIONS: dict[str, Any] = {
    "signed_url__secret_key": "k" * 32,
    "notification__webhook_allowed_networks": ["192.0.2.0/24"],
}
"""The options of a service on which worlds can be made."""

_HIDDEN = frozenset({"href", "links", "marker", "claim_id"})
"""Members of answers that only one transport has, or that differ from world to world."""

View = Callable[[Any], Any]


def plain(document: Any) -> Any:
    """An answer without the members that are known to differ between the transports."""
    if isinstance(document, dict):
        return {key: plain(value) for key, value in document.items() if key not in _HIDDEN}
    return [plain(value) for value in document] if isinstance(document, list) else document


@dataclass(frozen=True)
class Row:
    """One operation as either transport spells it.

    ``status`` is that of HTTP, and of the frame unless ``status_in_frame`` is set. ``renamed`` maps the first words of
    HTTP's error text to those of the frame's text. With ``same_text`` false only the field that the text names is
    compared. ``view`` and ``view_of_frame`` reduce the answers to the parts that must be equal. ``changes``: whether
    the operation may change anything; a refused operation never does.
    """

    action: str
    body: Mapping[str, Any]
    method: str
    path: str
    sent: Any = None
    status: int = 200
    status_in_frame: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    client: str = ALICE
    renamed: Mapping[str, str] = field(default_factory=dict)
    same_text: bool = True
    view: View = plain
    view_of_frame: View = plain
    changes: bool = False


class Outcome(NamedTuple):
    status: int
    answer: Any
    error: str | None


class World:
    """A project with some queues, a topic, and messages, claims and subscriptions in them."""

    def __init__(self, api: Api, *, foreign: World | None = None) -> None:
        self.api = api
        self.project = uuid.uuid4().hex
        self.names: dict[str, str] = {}
        if foreign is not None:
            self.names |= {f"foreign.{name}": id_ for name, id_ in foreign.names.items()}
        self._fill()

    def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Any:
        self.api.project = self.project
        return self.api.request(method, path, body, headers=kwargs.pop("headers", ALL_ROLES), **kwargs)

    def _fill(self) -> None:
        self._expect(201, "PUT", "/v2/queues/q", {"colour": "blue", "size": 7, "deep": True})
        self._expect(201, "PUT", "/v2/queues/quiet", {})
        self._expect(201, "PUT", "/v2/topics/t", {"colour": "blue", "size": 7, "deep": True})
        self._post("queues/q", "m", 5)
        self._post("queues/q", "late", 1, delay=60)
        self._post("queues/q", "bobs", 1, client=BOB)
        self._post("topics/t", "t", 2)
        claimed = self._expect(201, "POST", "/v2/queues/q/claims?limit=2", {"ttl": 300, "grace": 60})
        self.names["held"] = claimed.headers["Location"].rpartition("/")[2]
        created = self._expect(201, "POST", "/v2/queues/q/subscriptions", {"subscriber": HOOK, "ttl": 600})
        self.names["sub"] = created.json["subscription_id"]
        for name, path, subscriber in (
            ("mail", "queues/q", MAIL),
            ("tsub", "topics/t", HOOK),
            ("tmail", "topics/t", MAIL),
        ):
            made = self._expect(201, "POST", f"/v2/{path}/subscriptions", {"subscriber": subscriber})
            self.names[name] = made.json["subscription_id"]
            if subscriber == MAIL:
                self._expect(204, "PUT", f"/v2/{path}/subscriptions/{self.names[name]}/confirm", {"confirmed": True})
        self.names |= add_deliveries(self.api, self.project, self.names)
        self._make_dead_letter()

    def _make_dead_letter(self) -> None:
        """Make a queue whose message has become a dead letter in another queue."""
        rules = {"_max_claim_count": 1, "_dead_letter_queue": "dead_letters"}
        self._expect(201, "PUT", "/v2/queues/retried", rules)
        self._post("queues/retried", "dead", 1)
        claimed = self._expect(201, "POST", "/v2/queues/retried/claims")
        self._expect(204, "DELETE", claimed.headers["Location"])
        self._expect(204, "POST", "/v2/queues/retried/claims")
        (dead_letter,) = self._expect(
            200, "GET", "/v2/queues/dead_letters/messages?echo=true&include_claimed=true"
        ).json["messages"]
        self.names["dead0"] = dead_letter["id"]

    def _post(self, path: str, name: str, count: int, *, client: str = ALICE, **terms: int) -> None:
        messages = [{"body": f"{name}{number}", "ttl": 3000, **terms} for number in range(count)]
        posted = self._expect(201, "POST", f"/v2/{path}/messages", {"messages": messages}, client=client)
        for number, href in enumerate(posted.json["resources"]):
            self.names[f"{name}{number}"] = href.rpartition("/")[2]

    def _expect(self, status: int, method: str, path: str, body: Any = None, **kwargs: Any) -> Any:
        result = self.request(method, path, body, **kwargs)
        assert result.status_code == status, (method, path, result.text)
        return result

    # -- its contents --------------------------------------------------------------------------------------------------

    def contents(self) -> Any:
        """All that the listings and statistics of the world show, with ids replaced by their names."""
        shown: dict[str, Any] = {}
        for kind in ("queues", "topics"):
            listed = self.request("GET", f"/v2/{kind}?detailed=true&limit=20&with_count=true").json
            shown[kind] = listed
            for entry in listed[kind]:
                path = f"/v2/{kind}/{entry['name']}"
                for below in (
                    "stats",
                    "messages?echo=true&include_claimed=true&include_delayed=true&limit=20",
                ):
                    shown[f"{path}/{below}"] = self.request("GET", f"{path}/{below}").json
                shown |= subscriptions_of(self.request, path)
        claim = self.request("GET", f"/v2/queues/q/claims/{self.names['held']}")
        shown["claim"] = claim.json if claim.status_code == 200 else claim.status_code
        return self.named(shown)

    def with_names(self, text: str) -> str:
        """Replace ids of this world by their names, and other ids by ``<id>``."""
        for name, id_ in self.names.items():
            text = text.replace(id_, f"<{name}>")
        return re.sub(r"(?<![0-9a-f])[0-9a-f]{24,36}(?![0-9a-f])", "<id>", text)

    def named(self, document: Any) -> Any:
        """JSON with ids replaced by their names."""
        return json.loads(self.with_names(json.dumps(document)))

    def with_ids(self, document: Any) -> Any:
        """A part of a row with names replaced by the ids."""
        text = json.dumps(document)
        return json.loads(re.sub(r"<([a-z0-9.]+)>", lambda match: self.names[match[1]], text))


# -- the transports --------------------------------------------------------------------------------------------------


def over_http(world: World, row: Row, headers: Mapping[str, str]) -> Outcome:
    result = world.request(
        row.method, world.with_ids(row.path), world.with_ids(row.sent), headers=dict(headers), client=row.client
    )
    answer = result.json if result.content else None
    if result.status_code < 400:
        return Outcome(result.status_code, answer, None)
    text: str = answer["description"]
    for begin, other in row.renamed.items():
        if text.startswith(begin):
            text = other + text.removeprefix(begin)
            break
    return Outcome(result.status_code, None, text)


def over_websocket(world: World, row: Row, headers: Mapping[str, str], *, packs: bool) -> Outcome:
    frame = {
        "action": row.action,
        "headers": {"Client-ID": row.client, "X-Project-ID": world.project, **headers},
        "body": world.with_ids(row.body),
    }
    session = Session(world.api.parts, connection="c0ffee")
    reply = answer_frame(session, msgpack.packb(frame) if packs else json.dumps(frame))
    document = msgpack.unpackb(reply.frame) if isinstance(reply.frame, bytes) else json.loads(reply.frame)
    assert document["headers"]["status"] == reply.status
    answer = document["body"]
    is_error = reply.status >= 400 and isinstance(answer, dict)
    return Outcome(reply.status, answer, answer.get("error") if is_error else None)


def send(world: World, row: Row, transport: str, headers: Mapping[str, str]) -> Outcome:
    headers = {**row.headers, **headers}
    if transport == HTTP:
        return over_http(world, row, headers)
    return over_websocket(world, row, headers, packs=transport == MESSAGEPACK)


# -- the comparison --------------------------------------------------------------------------------------------------


def field_of(error: str) -> str:
    return error.partition(":")[0]


def assert_same_answers(worlds: Mapping[str, World], row: Row, headers: Mapping[str, str] | None = None) -> int:
    """Carry the row out in each world and compare the answers. Returns the status over HTTP."""
    by_http, *by_frames = (send(worlds[transport], row, transport, headers or {}) for transport in TRANSPORTS)
    for transport, got in zip(TRANSPORTS[1:], by_frames, strict=True):
        wanted = by_http.status
        if row.status_in_frame is not None and wanted == row.status:
            wanted = row.status_in_frame
        assert got.status == wanted, (transport, got, by_http)
        if by_http.error is None or got.error is None:
            if by_http.status == got.status and by_http.answer is not None:
                answer = worlds[transport].named(got.answer)
                assert row.view_of_frame(answer) == row.view(worlds[HTTP].named(by_http.answer)), transport
            continue
        texts = worlds[HTTP].with_names(by_http.error), worlds[transport].with_names(got.error)
        if row.same_text:
            assert texts[1] == texts[0], transport
        else:
            assert field_of(texts[1]) == field_of(texts[0]), (transport, texts)
    return by_http.status


def run(worlds: Mapping[str, World], row: Row, before: Any) -> None:
    """Carry the row out in each world, whose contents were ``before``. Compare the answers, and the contents after."""
    assert assert_same_answers(worlds, row) == row.status
    contents = [worlds[transport].contents() for transport in TRANSPORTS]
    assert contents[1] == contents[0]
    assert contents[2] == contents[0]
    if not row.changes:
        assert contents[0] == before
