# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on queues and topics."""

from __future__ import annotations

from typing import Any

from tests.api.agreement import Row
from tests.api.client import JSON_PATCH

PATCHED = {"Content-Type": JSON_PATCH}


def names_of(answer: Any) -> list[str]:
    """The names that a list shows."""
    return [entry["name"] for entry in next(value for key, value in answer.items() if key in ("queues", "topics"))]


def stored(metadata: Any) -> Any:
    """The metadata without the defaults of reserved keys, which only HTTP shows."""
    return {key: value for key, value in metadata.items() if not key.startswith("_")}


def counts(answer: Any) -> Any:
    messages = answer["messages"]
    shown = {key: value for key, value in messages.items() if isinstance(value, int)}
    for key in ("oldest", "newest"):
        if key in messages:
            moment = messages[key]
            id_ = moment.get("id") or moment["href"].rpartition("/")[2]
            shown[key] = [id_, moment["age"], moment["created"]]
    return shown


def shared(answer: Any) -> Any:
    """The answer of a share without the parts that depend on the project."""
    return {key: value for key, value in answer.items() if key not in ("project", "signature")}


def _rows(kind: str) -> dict[str, Row]:
    one = "q" if kind == "queue" else "t"
    name, path = f"{kind}_name", f"/v2/{kind}s"
    of_one, of_none, at = {name: one}, {name: "absent"}, f"{path}/{one}"
    add = [{"op": "add", "path": "/metadata/taste", "value": "sour"}]

    def listing(body: dict[str, Any], query: str, **more: Any) -> Row:
        return Row(f"{kind}_list", body, "GET", f"{path}?{query}", view=names_of, view_of_frame=names_of, **more)

    def patch(operations: Any, status: int, **more: Any) -> Row:
        renamed = {"[0]": "patch[0]", "[1]": "patch[1]", "body:": "patch:"}
        body = {**of_one, "patch": operations}
        return Row(
            f"{kind}_update",
            body,
            "PATCH",
            at,
            operations,
            status,
            headers=PATCHED,
            renamed=renamed,
            view=stored,
            **more,
        )

    rows = {
        "list": listing({}, ""),
        "list, limit": listing({"limit": 1}, "limit=1"),
        "list, marker": listing({"marker": "q"}, "marker=q"),
        "list, empty marker": listing({"marker": ""}, "marker="),
        "list, by name": listing({"name": "^q.*t$"}, "name=%5Eq.*t%24"),
        "list, by the empty name": listing({"name": ""}, "name="),
        "list, by metadata": listing({"metadata": {"colour": "blue"}}, "colour=blue"),
        "list, by a number": listing({"metadata": {"size": 7}}, "size=7"),
        "list, by a float": listing({"metadata": {"size": 7.0}}, "size=7"),
        "list, by a number as text": listing({"metadata": {"size": "7"}}, "size=7"),
        "list, by a boolean": listing({"metadata": {"deep": True, "colour": "blue"}}, "deep=true&colour=blue"),
        "list, by what none has": listing({"metadata": {"deep": False}}, "deep=false"),
        "list, detailed": listing({"detailed": True}, "detailed=true"),
        "list, counted": Row(
            f"{kind}_list", {"with_count": True, "limit": 1}, "GET", f"{path}?with_count=true&limit=1"
        ),
        "list, counted by name": Row(
            f"{kind}_list", {"with_count": True, "name": "q"}, "GET", f"{path}?with_count=true&name=q"
        ),
        "list, limit 0": listing({"limit": 0}, "limit=0", status=400),
        "list, limit 21": listing({"limit": 21}, "limit=21", status=400),
        "list, limit -1": listing({"limit": -1}, "limit=-1", status=400),
        "list, limit as text": listing({"limit": "x"}, "limit=x", status=400, same_text=False),
        "list, detailed as text": listing({"detailed": "x"}, "detailed=x", status=400, same_text=False),
        "list, with_count as a number": listing({"with_count": 7}, "with_count=7", status=400, same_text=False),
        "list, a marker that is no name": listing({"marker": "b@d"}, "marker=b%40d", status=400),
        "list, a marker that is too long": listing({"marker": "x" * 65}, "marker=" + "x" * 65, status=400),
        "list, a marker with U+0000": listing({"marker": "a\0"}, "marker=a%00", status=400),
        "list, a name with U+0000": listing({"name": "a\0"}, "name=a%00", status=400),
        "list, a bad expression": listing({"name": "("}, "name=(", status=400),
        "list, a backreference": listing({"name": "(a)\\1"}, "name=(a)%5C1", status=400),
        "list, a metadata value with U+0000": listing(
            {"metadata": {"a": "\0"}}, "a=%00", status=400, renamed={"a: ": "metadata.a: "}
        ),
        "create": Row(f"{kind}_create", {name: "new"}, "PUT", f"{path}/new", status=201, changes=True),
        "create, with metadata": Row(
            f"{kind}_create",
            {name: "new", "metadata": {"a": [1, {"b": None}], "_default_message_ttl": 120}},
            "PUT",
            f"{path}/new",
            {"a": [1, {"b": None}], "_default_message_ttl": 120},
            201,
            changes=True,
        ),
        "create again": Row(f"{kind}_create", {**of_one, "metadata": {"x": 1}}, "PUT", at, {"x": 1}, 204),
        "get": Row(f"{kind}_get", of_one, "GET", at, view=stored),
        "get, absent": Row(f"{kind}_get", of_none, "GET", f"{path}/absent", view=stored),
        "update": patch(add, 200, changes=True),
        "update, nothing": patch([], 200, changes=True),
        "update, replace and remove": patch(
            [
                {"op": "replace", "path": "/metadata/size", "value": 8},
                {"op": "remove", "path": "/metadata/colour"},
            ],
            200,
            changes=True,
        ),
        "update, remove what is not there": patch([*add, {"op": "remove", "path": "/metadata/nope"}], 409),
        "update, a wrong path": patch([{"op": "add", "path": "/size", "value": 1}], 400),
        "update, no value": patch([{"op": "add", "path": "/metadata/size"}], 400),
        "update, an unknown operation": patch([{"op": "test", "path": "/metadata/size", "value": 7}], 400),
        "update, an operation that is none": patch([*add, 7], 400),
        "update, a value out of bounds": patch(
            [{"op": "add", "path": "/metadata/_default_message_ttl", "value": 1}], 400
        ),
        "update, no list": patch({"op": "add"}, 400),
        "update, null": patch(None, 400, same_text=False),
        "update, too large": patch([{"op": "add", "path": "/metadata/a", "value": "x" * 70_000}], 400, same_text=False),
        "update, absent": Row(
            f"{kind}_update", {**of_none, "patch": add}, "PATCH", f"{path}/absent", add, 404, headers=PATCHED
        ),
        "delete": Row(f"{kind}_delete", of_one, "DELETE", at, status=204, changes=True),
        "delete, absent": Row(f"{kind}_delete", of_none, "DELETE", f"{path}/absent", status=204),
        "stats": Row(f"{kind}_get_stats", of_one, "GET", f"{at}/stats", view=counts, view_of_frame=counts),
        "stats, absent": Row(f"{kind}_get_stats", of_none, "GET", f"{path}/absent/stats", status_in_frame=404),
        "purge": Row(f"{kind}_purge", of_one, "POST", f"{at}/purge", status=204, changes=True),
        "purge, absent": Row(f"{kind}_purge", of_none, "POST", f"{path}/absent/purge", status=204),
    }
    for types, status in (
        (["messages"], 204),
        (["subscriptions"], 204),
        (["subscriptions", "messages", "messages"], 204),
        ([], 204),
        (["claims"], 400),
        ([7], 400),
        ([None], 400),
        (None, 400),
        ("messages", 400),
        ({}, 400),
    ):
        wanted = {"resource_types": types}
        rows[f"purge, {types}"] = Row(
            f"{kind}_purge", of_one | wanted, "POST", f"{at}/purge", wanted, status, changes=status == 204
        )
    unknown = {"resource_types": ["messages"], "more": 1}
    rows["purge, an unknown field"] = Row(f"{kind}_purge", of_one | unknown, "POST", f"{at}/purge", unknown, 400)
    return rows | _bad_metadata(kind) | _bad_names(kind) | _shares(kind)


def _bad_metadata(kind: str) -> dict[str, Row]:
    bad: dict[str, Any] = {
        "null": None,
        "a list": [],
        "text": "x",
        "true": True,
        "too large": {"a": "x" * 70_000},
        "a TTL out of bounds": {"_default_message_ttl": 1},
        "a TTL that is null": {"_default_message_ttl": None},
        "a TTL that is a float": {"_default_message_ttl": 60.0},
        "its own dead letter queue": {"_dead_letter_queue": "new"},
        "a dead letter queue with U+0000": {"_dead_letter_queue": "a\0"},
        "a flavor that is a number": {"_flavor": 7},
        "a retry policy that is none": {"_retry_policy": {"ignore_subscription_override": 7}},
    }
    name = f"{kind}_name"
    return {
        f"create, {what}": Row(
            f"{kind}_create",
            {name: "new", "metadata": value},
            "PUT",
            f"/v2/{kind}s/new",
            value,
            400,
            # The bytes of a body are counted before it is decoded as metadata.
            renamed={"body: has": "metadata: has"},
            same_text=what != "too large",
        )
        for what, value in bad.items()
        # A PUT without a body has no metadata.
        if value is not None
    }


def _bad_names(kind: str) -> dict[str, Row]:
    return {
        f"{verb}, name {shown}": Row(
            f"{kind}_{verb}", {f"{kind}_name": bad}, method, f"/v2/{kind}s/{spelt}{below}", status=400
        )
        for verb, method, below in (
            ("create", "PUT", ""),
            ("get", "GET", ""),
            ("delete", "DELETE", ""),
            ("get_stats", "GET", "/stats"),
            ("purge", "POST", "/purge"),
        )
        for shown, bad, spelt in (
            ("b@d", "b@d", "b%40d"),
            ("of 65 characters", "x" * 65, "x" * 65),
            ("with a line feed", "a\n", "a%0A"),
            ("é", "é", "%C3%A9"),
        )
    }


def _shares(kind: str) -> dict[str, Row]:
    one, name = ("q", "queue_name") if kind == "queue" else ("t", "topic_name")
    wanted: dict[str, tuple[Any, int]] = {
        "nothing": ({}, 200),
        "all": ({"paths": ["subscriptions", "messages"], "methods": ["POST", "GET"]}, 200),
        "empty lists": ({"paths": [], "methods": []}, 200),
        "an end": ({"expires": "2100-01-01T00:00:00Z"}, 200),
        "an end that is over": ({"expires": "2001-01-01T00:00:00Z"}, 400),
        "an end that is none": ({"expires": "soon"}, 400),
        "an end that is a number": ({"expires": 7}, 400),
        "an end that is null": ({"expires": None}, 400),
        "an unknown path": ({"paths": ["queues"]}, 400),
        "a path that is null": ({"paths": [None]}, 400),
        "paths that are text": ({"paths": "messages"}, 400),
        "an unknown method": ({"methods": ["BREW"]}, 400),
        "methods that are null": ({"methods": None}, 400),
        "an unknown field": ({"more": 1}, 400),
        "too large": ({"paths": ["messages"] * 1000}, 400),
    }
    if kind == "topic":
        wanted["claims of a topic"] = ({"paths": ["claims"]}, 400)
    return {
        f"share, {what}": Row(
            f"{kind}_share",
            {name: one, **fields},
            "POST",
            f"/v2/{kind}s/{one}/share",
            fields,
            status,
            view=shared,
            view_of_frame=shared,
            same_text=what != "too large",
        )
        for what, (fields, status) in wanted.items()
    }


ROWS: dict[str, Row] = {f"{kind} {what}": row for kind in ("queue", "topic") for what, row in _rows(kind).items()}
