# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on subscriptions and deliveries, of the queue ``q`` and of the topic ``t``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.agreement import HOOK, Row
from tests.api.agreement.deliveries import MAIL, by_subscriber

MISSING = "0" * 24
_NO_IDS = {
    "absent": MISSING,
    "of another project": "<foreign.sub>",
    "too short": "x",
    "dots": "..",
    "percent": "%",
    "spaces": " a ",
}
_BAD_SUBSCRIBERS = {
    "of another scheme": "ftp://x",
    "a connection": "websocket:00.00",
    "empty": "",
    "no URI": "x",
    "with a password": "http://u:p@192.0.2.1/",
    "of this machine": "http://127.0.0.1/",
    "with a space": "http://192.0.2.1/a b",
    "of two lines": "http://192.0.2.1/\r\nX: y",
    "in another script": "http://192.0.2.1/ä",
    "too long": "http://192.0.2.1/" + "x" * 2000,
    "two mailboxes": "mailto:a@b.example,c@d.example",
    "with a token": "trust+http://192.0.2.1/",
}
_BAD_TTLS = (59, 0, -1, 2**62)
_NO_INTEGERS = ("600", 600.0, True, [], {})
_BAD_OPTIONS: dict[str, Any] = {
    "post_data": {"post_data": 1},
    "post_headers": {"post_headers": {"Host": "x"}},
    "a retry policy": {"_retry_policy": {"retries_with_no_delay": -1}},
    "a trust": {"trust_id": "x"},
    "a filter": {"filter": {"a": 1}},
    "a dead letter queue": {"dead_letter_queue": "a/b"},
    "too large": {"x": "y" * 70_000},
    "far too large": {"x": "y" * 140_000},
}


def keys(answer: dict[str, Any]) -> list[str]:
    """The keys of an answer whose ids and secrets differ each time, without the sentence that only frames have."""
    return sorted(set(answer) - {"message"})


def count(page: dict[str, Any]) -> int:
    """The number of subscriptions of a page. Their order depends on their random ids."""
    return len(page["subscriptions"])


class _RowMaker:
    """Makes rows about one queue or topic, whose subscriptions are ``sub`` and ``mail``."""

    def __init__(self, kind: str, name: str, prefix: str) -> None:
        self.named = {f"{kind}_name": name}
        self.path = f"/v2/{kind}s/{name}/subscriptions"
        self.sub, self.mail = f"<{prefix}sub>", f"<{prefix}mail>"
        self.prefix = prefix

    def one(
        self,
        action: str,
        method: str,
        below: str = "",
        sent: dict[str, Any] | None = None,
        *,
        id_: str = "",
        query: str = "",
        fields: dict[str, Any] | None = None,
        **more: Any,
    ) -> Row:
        """A row about one subscription, ``sub`` unless ``id_`` is given. HTTP has ``fields`` in its path or query."""
        id_ = id_ or self.sub
        path = f"{self.path}/{id_ if id_.startswith('<') else quote(id_)}{below}{query and '?' + query}"
        body = {**self.named, "subscription_id": id_, **(sent or {}), **(fields or {})}
        return Row(action, body, method, path, sent, **more)

    def create(self, sent: dict[str, Any], status: int = 201, **more: Any) -> Row:
        more = {"changes": status == 201, "view": keys, "view_of_frame": keys, **more}
        return Row("subscription_create", self.named | sent, "POST", self.path, sent, status, **more)

    def list(self, fields: dict[str, Any], query: str = "", status: int = 200, **more: Any) -> Row:
        return Row("subscription_list", self.named | fields, "GET", f"{self.path}?{query}", status=status, **more)

    def update(self, sent: dict[str, Any], status: int = 204, **more: Any) -> Row:
        return self.one("subscription_update", "PATCH", "", sent, status=status, changes=status == 204, **more)


def _reading(of: _RowMaker) -> dict[str, Row]:
    rows = {
        "get": of.one("subscription_get", "GET"),
        "list": of.list({}, view=by_subscriber, view_of_frame=by_subscriber),
        "list, one": of.list({"limit": 1}, "limit=1", view=count, view_of_frame=count),
        "list, behind the last": of.list({"marker": "f" * 24}, "marker=" + "f" * 24),
        "list, behind nothing": of.list({"marker": ""}, "marker=", view=by_subscriber, view_of_frame=by_subscriber),
        "list, a marker that is none": of.list({"marker": "x"}, "marker=x", 400),
        "list, limit is text": of.list({"limit": "x"}, "limit=x", 400, same_text=False),
    }
    for limit in (0, 21, -1, 2**63 - 1):
        rows[f"list, limit {limit}"] = of.list({"limit": limit}, f"limit={limit}", 400)
    for what, id_ in _NO_IDS.items():
        rows[f"get, {what}"] = of.one("subscription_get", "GET", id_=id_, status=404)
        rows[f"delete, {what}"] = of.one("subscription_delete", "DELETE", id_=id_, status=204)
    rows["delete"] = of.one("subscription_delete", "DELETE", status=204, changes=True)
    return rows


def _creating(of: _RowMaker) -> dict[str, Row]:
    rows = {
        "create": of.create(
            {"subscriber": MAIL + "?subject=x", "ttl": 600, "options": {"subject": "x", "k": [1, None]}}
        ),
        "create a webhook": of.create({"subscriber": HOOK + "/other"}),
        "create it in another case": of.create({"subscriber": HOOK.replace("https", "HTTPS"), "ttl": 60}),
        "create, without options": of.create({"subscriber": MAIL.upper(), "options": {}}),
        "create, with an unknown field": of.create({"subscriber": HOOK + "/unknown", "x": 1}),
        "create, one that is confirmed": of.create({"subscriber": MAIL}, 409),
        "create, the largest ttl": of.create({"subscriber": HOOK + "/long", "ttl": 220_367_260_800}),
        "create, ttl beyond the year 9999": of.create({"subscriber": HOOK + "/long", "ttl": 253_402_300_800}, 400),
    }
    for what, subscriber in _BAD_SUBSCRIBERS.items():
        rows[f"create, subscriber {what}"] = of.create({"subscriber": subscriber}, 400)
        rows[f"update, subscriber {what}"] = of.update({"subscriber": subscriber}, 400)
    for what, options in _BAD_OPTIONS.items():
        rows[f"create, options with {what}"] = of.create({"subscriber": HOOK + "/x", "options": options}, 400)
        # Whether the options may hold a trust depends on the subscriber that is stored.
        rows[f"update, options with {what}"] = of.update({"options": options}, 400)
    rows["create, options far too large"] = of.create(
        {"subscriber": HOOK, "options": _BAD_OPTIONS["far too large"]}, 400, same_text=False
    )
    for what in ("create", "update"):
        name = f"{what}, options with far too large"
        rows[name] = _without_text(rows[name])
    for ttl in _BAD_TTLS:
        rows[f"create, ttl {ttl}"] = of.create({"subscriber": HOOK + "/x", "ttl": ttl}, 400)
        rows[f"update, ttl {ttl}"] = of.update({"ttl": ttl}, 400)
    for wrong in _NO_INTEGERS:
        rows[f"create, ttl {wrong!r}"] = of.create({"subscriber": HOOK + "/x", "ttl": wrong}, 400, same_text=False)
        rows[f"update, ttl {wrong!r}"] = of.update({"ttl": wrong}, 400, same_text=False)
    for field, wrong in (("subscriber", 5), ("subscriber", []), ("options", []), ("options", "x"), ("options", 1)):
        sent = {"subscriber": HOOK + "/x", field: wrong}
        rows[f"create, {field} {wrong!r}"] = of.create(sent, 400, same_text=False)
        rows[f"update, {field} {wrong!r}"] = of.update({field: wrong}, 400, same_text=False)
    return rows


def _without_text(row: Row) -> Row:
    """The row without a comparison of error texts: a frame also holds the name of the queue, so its size differs."""
    return Row(row.action, row.body, row.method, row.path, row.sent, row.status, same_text=False, view=row.view)


def _changing(of: _RowMaker) -> dict[str, Row]:
    wrong_state = {"state": "done"}
    rows = {
        "update, ttl": of.update({"ttl": 900}),
        "update, options": of.update({"options": {"post_data": "x", "k": {"ä": 1.5}}}),
        "update, subscriber": of.update({"subscriber": HOOK + "/new"}),
        "update, all": of.update({"subscriber": MAIL + "?subject=y", "ttl": 60, "options": {}}),
        "update, nothing": of.update({}, 400),
        "update, a subscriber that is there": of.update({"subscriber": MAIL}, 409),
        "confirm": of.one("subscription_confirm", "PUT", "/confirm", {"confirmed": True}, status=204, changes=True),
        "confirm not": of.one(
            "subscription_confirm", "PUT", "/confirm", {"confirmed": False}, status=204, changes=True
        ),
        "confirm, nothing": of.one("subscription_confirm", "PUT", "/confirm", {}, status=400, same_text=False),
        "new secret": of.one(
            "subscription_rotate_secret", "POST", "/rotate_secret", {}, changes=True, view=keys, view_of_frame=keys
        ),
        "new secret, of a mail": of.one(
            "subscription_rotate_secret", "POST", "/rotate_secret", {}, id_=of.mail, status=400
        ),
        "resend": of.one("subscription_resend", "POST", "/resend", {"state": "dead"}, changes=True),
        "resend, none": of.one("subscription_resend", "POST", "/resend", {"state": "dead"}, id_=of.mail),
        "resend, another state": of.one("subscription_resend", "POST", "/resend", wrong_state, status=400),
        "resend, more": of.one("subscription_resend", "POST", "/resend", {"state": "dead", "x": 1}, status=400),
        "resend, nothing": of.one(
            "subscription_resend",
            "POST",
            "/resend",
            {},
            status=400,
            renamed={"body: lacks the field 'state'": "state: is required"},
        ),
    }
    for wrong in ("true", 1, None, []):
        sent = {"confirmed": wrong}
        rows[f"confirm, {wrong!r}"] = of.one(
            "subscription_confirm", "PUT", "/confirm", sent, status=400, same_text=False
        )
    for grace in (0, 604_800):
        rows[f"new secret, grace {grace}"] = of.one(
            "subscription_rotate_secret",
            "POST",
            "/rotate_secret",
            {"grace": grace},
            changes=True,
            view=keys,
            view_of_frame=keys,
        )
    for grace in (-1, 604_801, 2**63 - 1):
        rows[f"new secret, grace {grace}"] = of.one(
            "subscription_rotate_secret", "POST", "/rotate_secret", {"grace": grace}, status=400
        )
    for what, id_ in _NO_IDS.items():
        absent: dict[str, Any] = {"id_": id_, "status": 404}
        rows |= {
            f"update, {what}": of.one("subscription_update", "PATCH", "", {"ttl": 60}, **absent),
            f"confirm, {what}": of.one("subscription_confirm", "PUT", "/confirm", {"confirmed": True}, **absent),
            f"new secret, {what}": of.one("subscription_rotate_secret", "POST", "/rotate_secret", {}, **absent),
            f"resend, {what}": of.one("subscription_resend", "POST", "/resend", {"state": "dead"}, **absent),
            f"deliveries, {what}": of.one("delivery_list", "GET", "/deliveries", **absent),
        }
    return rows


def _deliveries(of: _RowMaker) -> dict[str, Row]:
    dead, waiting = f"<{of.prefix}dead1>", f"<{of.prefix}waiting>"

    def page(fields: dict[str, Any], query: str, status: int = 200, **more: Any) -> Row:
        return of.one("delivery_list", "GET", "/deliveries", query=query, fields=fields, status=status, **more)

    def resend(id_: str, status: int, **more: Any) -> Row:
        below = f"/deliveries/{id_ if id_.startswith('<') else quote(id_)}/resend"
        return of.one("delivery_resend", "POST", below, fields={"delivery_id": id_}, status=status, **more)

    rows = {
        "deliveries": page({}, ""),
        "deliveries, dead": page({"state": "dead"}, "state=dead"),
        "deliveries, done": page({"state": "done"}, "state=done"),
        "deliveries, an empty state": page({"state": ""}, "state="),
        "deliveries, behind nothing": page({"marker": ""}, "marker="),
        "deliveries, one": page({"limit": 1}, "limit=1"),
        "deliveries, behind one": page({"marker": waiting}, f"marker={waiting}"),
        "deliveries, another state": page({"state": "x"}, "state=x", 400),
        "deliveries, a marker that is none": page({"marker": "x"}, "marker=x", 400),
        "deliveries, limit 0": page({"limit": 0}, "limit=0", 400),
        "deliveries, limit 21": page({"limit": 21}, "limit=21", 400),
        "resend one": resend(dead, 204, changes=True),
        "resend one that waits": resend(waiting, 409),
        "resend one, of another subscription": of.one(
            "delivery_resend",
            "POST",
            f"/deliveries/{dead}/resend",
            id_=of.mail,
            fields={"delivery_id": dead},
            status=404,
        ),
    }
    for what, id_ in {"absent": "0" * 36, "no id": "x", "of another project": "<foreign.dead1>"}.items():
        rows[f"resend one, {what}"] = resend(id_, 404)
    return rows


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for of in (_RowMaker("queue", "q", ""), _RowMaker("topic", "t", "t")):
        (kind,) = of.named
        table = {**_reading(of), **_creating(of), **_changing(of), **_deliveries(of)}
        if kind == "topic_name":
            # Bad fields are refused by the same code as for queues.
            table = {name: row for name, row in table.items() if row.status != 400}
        rows |= {f"{name}, by {kind}": row for name, row in table.items()}
    other = Row("subscription_get", {"topic_name": "q", "subscription_id": "<sub>"}, "GET", "", status=404)
    rows["get, of the queue of that name"] = Row(
        other.action, other.body, "GET", "/v2/topics/q/subscriptions/<sub>", status=404
    )
    absent = {"queue_name": "absent"}
    rows["list, of an absent queue"] = Row("subscription_list", absent, "GET", "/v2/queues/absent/subscriptions")
    rows["create, on an absent queue"] = Row(
        "subscription_create",
        {**absent, "subscriber": MAIL},
        "POST",
        "/v2/queues/absent/subscriptions",
        {"subscriber": MAIL},
        201,
        view=keys,
        view_of_frame=keys,
        changes=True,
    )
    return rows


ROWS = _rows()
