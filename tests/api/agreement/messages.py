# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on messages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.agreement import Row, plain
from tests.api.client import BOB

_IDS = {"ids:": "message_ids:"}
_BIG = 2**31


def how_many(answer: Any) -> int:
    """The number of ids that a post answers."""
    return len(answer.get("resources") or answer["message_ids"])


def message_of(answer: Any) -> Any:
    """The message of ``message_get``, which HTTP does not wrap."""
    return plain(answer["messages"])


def _posts(name: dict[str, str], at: str) -> dict[str, Row]:
    good: dict[str, Any] = {
        "one": [{"body": {"a": [1, 2.5, None, True, "é\u2028"]}, "ttl": 100}],
        "several": [{"body": number, "ttl": 100 + number, "delay": number} for number in range(3)],
        "defaults": [{"body": None}],
        "an unknown field": [{"body": 1, "more": 1}],
        "body with U+0000": [{"body": "a\0"}],
    }
    bad: dict[str, Any] = {
        "empty": [],
        "no list": {},
        "text": "x",
        "null": None,
        "a message that is none": [7],
        "a message that is null": [None],
        "without a body": [{"ttl": 100}],
        "the second without a body": [{"body": 1}, {}],
    }
    for field, low, high in (("ttl", 59, 1209601), ("delay", -1, 901)):
        for value in (low, high, -_BIG, _BIG, 2**63 - 1, None, "100", 100.0, 100.5, True, [], {}):
            bad[f"{field} {value}"] = [{"body": 1, field: value}]
    bad["the second with a bad ttl"] = [{"body": 1}, {"body": 1, "ttl": 59}]
    rows = {
        f"post, {what}": Row(
            "message_post",
            {**name, "messages": messages},
            "POST",
            f"{at}/messages",
            {"messages": messages},
            201,
            view=how_many,
            view_of_frame=how_many,
            changes=True,
        )
        for what, messages in good.items()
    }
    for what, messages in bad.items():
        rows[f"post, {what}"] = Row(
            "message_post",
            {**name, "messages": messages},
            "POST",
            f"{at}/messages",
            {"messages": messages},
            400,
        )
    rows["post, without messages"] = Row("message_post", name, "POST", f"{at}/messages", {}, 400)
    if "queue_name" in name:
        rows["post, to a new queue"] = Row(
            "message_post",
            {"queue_name": "new", "messages": [{"body": 1}]},
            "POST",
            "/v2/queues/new/messages",
            {"messages": [{"body": 1}]},
            201,
            view=how_many,
            view_of_frame=how_many,
            changes=True,
        )
        refused = {"messages": [{"body": 1}, {"body": 2, "ttl": 1}]}
        rows["post, refused, to a new queue"] = Row(
            "message_post", {"queue_name": "new", **refused}, "POST", "/v2/queues/new/messages", refused, 400
        )
    return rows


def _lists(name: dict[str, str], at: str, first: str) -> dict[str, Row]:
    def listing(body: dict[str, Any], query: str, status: int = 200, **more: Any) -> Row:
        return Row("message_list", {**name, **body}, "GET", f"{at}/messages?{query}", status=status, **more)

    flags = ("echo", "include_claimed", "include_delayed", "include_origin")
    rows = {
        "list": listing({}, ""),
        "list, another client": listing({}, "", client=BOB),
        "list, echo": listing({"echo": True}, "echo=true"),
        "list, everything": listing(dict.fromkeys(flags, True), "&".join(f"{flag}=true" for flag in flags)),
        "list, limit": listing({"echo": True, "limit": 2}, "echo=true&limit=2"),
        "list, wait": listing({"echo": True, "wait": 20}, "echo=true&wait=20"),
        "list, wait 0": listing({"echo": True, "wait": 0}, "echo=true&wait=0"),
        **{
            f"list, wait {wait}": listing({"echo": True, "wait": wait}, f"echo=true&wait={wait}", 400)
            for wait in (21, -1, 2**63 - 1)
        },
        "list, marker": listing({"echo": True, "marker": f"<{first}>"}, f"echo=true&marker=<{first}>"),
        "list, empty marker": listing({"echo": True, "marker": ""}, "echo=true&marker="),
        "list, a foreign marker": listing(
            {"echo": True, "marker": f"<foreign.{first}>"}, f"echo=true&marker=<foreign.{first}>"
        ),
        "list, a marker that is no id": listing({"marker": "x"}, "marker=x", 400),
        "list, a marker with U+0000": listing({"marker": "\0"}, "marker=%00", 400),
        "list, a marker that is too long": listing({"marker": "a" * 5000}, "marker=" + "a" * 5000, 400),
    }
    for limit in (0, 21, -1, _BIG, 2**63 - 1):
        rows[f"list, limit {limit}"] = listing({"limit": limit}, f"limit={limit}", 400)
    for bad, spelt in (("x", "x"), (1.5, "1.5"), ([], "[]"), ({}, "{}")):
        rows[f"list, limit {bad}"] = listing({"limit": bad}, f"limit={spelt}", 400, same_text=False)
    for flag in flags:
        for bad, spelt in (("x", "x"), (7, "7"), ([], "[]")):
            rows[f"list, {flag} {bad}"] = listing({flag: bad}, f"{flag}={spelt}", 400, same_text=False)
    return rows


def _gets(name: dict[str, str], at: str, first: str) -> dict[str, Row]:
    def get(id_: str, status: int, **more: Any) -> Row:
        path = f"{at}/messages/{id_ if id_.startswith('<') else quote(id_, safe='')}"
        body = {**name, "message_id": id_}
        return Row("message_get", body, "GET", path, status=status, view_of_frame=message_of, **more)

    def get_many(ids: Any, spelt: str, status: int = 200, **more: Any) -> Row:
        body = {**name, "message_ids": ids}
        return Row("message_get_many", body, "GET", f"{at}/messages?ids={spelt}", status=status, renamed=_IDS, **more)

    twenty = [f"{number:036x}" for number in range(20)]
    return {
        "get": get(f"<{first}>", 200),
        "get, foreign": get(f"<foreign.{first}>", 404),
        "get, absent": get("0" * 36, 404),
        "get, no id": get("nope", 404),
        "get, too long": get("a" * 2000, 404),
        "get, of an absent queue": Row(
            "message_get",
            {"queue_name": "absent", "message_id": f"<{first}>"},
            "GET",
            f"/v2/queues/absent/messages/<{first}>",
            status=404,
        ),
        "get many": get_many([f"<{first}>", "nope"], f"<{first}>,nope"),
        "get many, twice": get_many([f"<{first}>", f"<{first}>"], f"<{first}>&ids=<{first}>"),
        # HTTP answers 404 if none of the ids exists, and has no way to say that only some of them do.
        "get many, none": get_many(["nope"], "nope", 404, status_in_frame=200),
        "get many, foreign": get_many([f"<foreign.{first}>"], f"<foreign.{first}>", 404, status_in_frame=200),
        "get many, twenty": get_many([*twenty[1:], f"<{first}>"], ",".join(twenty[1:]) + f",<{first}>"),
        "get many, too many": get_many([*twenty, "x"], ",".join(twenty) + ",x", 400),
        "get many, empty": get_many([], ",", 400),
    }


def _deletes(name: dict[str, str], at: str, first: str) -> dict[str, Row]:
    def delete(id_: str, status: int = 204, claim: str | None = None, **more: Any) -> Row:
        path = f"{at}/messages/{id_ if id_.startswith('<') else quote(id_, safe='')}"
        body = {**name, "message_id": id_}
        if claim is not None:
            body["claim_id"] = claim
            path += f"?claim_id={claim if claim.startswith('<') else quote(claim, safe='')}"
        return Row("message_delete", body, "DELETE", path, status=status, **more)

    def delete_many(ids: Any, spelt: str, status: int = 204, claims: Any = None, spelt_claims: str = "") -> Row:
        body = {**name, "message_ids": ids}
        path = f"{at}/messages?ids={spelt}"
        if claims is not None:
            body["claim_ids"] = claims
            path += f"&claim_ids={spelt_claims}"
        return Row("message_delete_many", body, "DELETE", path, status=status, renamed=_IDS, changes=status == 204)

    def pop(value: Any, spelt: str, status: int, *, wait: int | None = None, **more: Any) -> Row:
        body = {**name, "pop": value}
        if wait is not None:
            body["wait"] = wait
            spelt += f"&wait={wait}"
        return Row(
            "message_delete_many",
            body,
            "DELETE",
            f"{at}/messages?pop={spelt}",
            status=status,
            changes=status == 200,
            **more,
        )

    renamed = {"ids: give either 'ids' or 'pop' in the query": "message_ids: give either 'message_ids' or 'pop'"}
    rows = {
        "delete": delete(f"<{first}>", changes=True),
        "delete, foreign": delete(f"<foreign.{first}>"),
        "delete, absent": delete("nope"),
        "delete, with a claim that is none": delete(f"<{first}>", 400, "nope"),
        "delete, with a foreign claim": delete(f"<{first}>", 400, "<foreign.held>"),
        "delete, with a claim that is no id": delete(f"<{first}>", 400, "é"),
        "delete, with a claim that is too long": delete(f"<{first}>", 400, "a" * 200),
        "delete many": delete_many([f"<{first}>", "nope"], f"<{first}>,nope"),
        "delete many, foreign": delete_many([f"<foreign.{first}>"], f"<foreign.{first}>"),
        "delete many, under no claim": delete_many([f"<{first}>"], f"<{first}>", 400, ["nope"], "nope"),
        "delete many, too many": delete_many(["x"] * 21, ",".join(["x"] * 21), 400),
        "delete many, empty": delete_many([], ",", 400),
        "delete many, no claims": delete_many([f"<{first}>"], f"<{first}>", 400, [], ","),
        "delete many, a claim that is no id": delete_many([f"<{first}>"], f"<{first}>", 400, ["é"], "%C3%A9"),
        "delete many, too many claims": delete_many([f"<{first}>"], f"<{first}>", 400, ["x"] * 21, ",".join("x" * 21)),
        "delete many, neither": Row(
            "message_delete_many", name, "DELETE", f"{at}/messages", status=400, renamed=renamed
        ),
        "delete many, both": Row(
            "message_delete_many",
            {**name, "message_ids": [f"<{first}>"], "pop": 1},
            "DELETE",
            f"{at}/messages?ids=<{first}>&pop=1",
            status=400,
            renamed=renamed,
        ),
        "pop": pop(1, "1", 200),
        "pop, wait": pop(1, "1", 200, wait=20),
        "pop, wait 21": pop(1, "1", 400, wait=21),
        "pop, the rest": pop(20, "20", 200),
    }
    for value in (0, 21, -1, _BIG, 2**63 - 1):
        rows[f"pop {value}"] = pop(value, str(value), 400)
    for bad, spelt in (("x", "x"), (1.5, "1.5"), ([], "[]")):
        rows[f"pop {bad}"] = pop(bad, spelt, 400, same_text=False)
    return rows


def _of(kind: str, name: str, first: str) -> dict[str, Row]:
    body, at = {f"{kind}_name": name}, f"/v2/{kind}s/{name}"
    rows = _posts(body, at) | _lists(body, at, first) | _gets(body, at, first) | _deletes(body, at, first)
    return {f"{kind} {what}": row for what, row in rows.items()}


def _claimed() -> dict[str, Row]:
    at = "/v2/queues/q/messages"
    of_m0 = {"queue_name": "q", "message_id": "<m0>"}
    many = {"queue_name": "q", "message_ids": ["<m0>", "<m1>"]}
    return {
        "get, claimed": Row("message_get", of_m0, "GET", f"{at}/<m0>", view_of_frame=message_of),
        "delete, claimed": Row("message_delete", of_m0, "DELETE", f"{at}/<m0>", status=403),
        "delete, claimed, with an empty claim": Row(
            "message_delete", {**of_m0, "claim_id": ""}, "DELETE", f"{at}/<m0>?claim_id=", status=403
        ),
        "delete, under its claim": Row(
            "message_delete",
            {**of_m0, "claim_id": "<held>"},
            "DELETE",
            f"{at}/<m0>?claim_id=<held>",
            status=204,
            changes=True,
        ),
        # As in the reference, a claim does not prevent another client from deleting several messages without a claim.
        "delete many, claimed": Row(
            "message_delete_many", many, "DELETE", f"{at}?ids=<m0>,<m1>", status=204, changes=True
        ),
        "delete many, under their claim": Row(
            "message_delete_many",
            {**many, "claim_ids": ["<held>"]},
            "DELETE",
            f"{at}?ids=<m0>,<m1>&claim_ids=<held>",
            status=204,
            changes=True,
        ),
        "get a dead letter": Row(
            "message_get",
            {"queue_name": "dead_letters", "message_id": "<dead0>", "include_origin": True},
            "GET",
            "/v2/queues/dead_letters/messages/<dead0>?include_origin=true",
            view_of_frame=message_of,
        ),
        "list dead letters": Row(
            "message_list",
            {"queue_name": "dead_letters", "echo": True, "include_origin": True},
            "GET",
            "/v2/queues/dead_letters/messages?echo=true&include_origin=true",
        ),
        "get many dead letters": Row(
            "message_get_many",
            {"queue_name": "dead_letters", "message_ids": ["<dead0>"], "include_origin": True},
            "GET",
            "/v2/queues/dead_letters/messages?ids=<dead0>&include_origin=true",
        ),
        "list, an absent queue": Row("message_list", {"queue_name": "absent"}, "GET", "/v2/queues/absent/messages"),
        "pop, an absent queue": Row(
            "message_delete_many", {"queue_name": "absent", "pop": 1}, "DELETE", "/v2/queues/absent/messages?pop=1"
        ),
        "delete, an absent queue": Row(
            "message_delete",
            {"queue_name": "absent", "message_id": "<m0>"},
            "DELETE",
            "/v2/queues/absent/messages/<m0>",
            status=204,
        ),
    }


ROWS: dict[str, Row] = _of("queue", "q", "m2") | _of("topic", "t", "t0") | _claimed()
