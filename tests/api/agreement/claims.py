# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on claims."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.agreement import Row

_AT = "/v2/queues/q/claims"
_Q = {"queue_name": "q"}
_BIG = 2**31
_BAD_SECONDS = (59, -1, 0, _BIG, 2**63 - 1)
_NO_SECONDS = (None, "300", 300.0, True, [], {})


def _create(fields: dict[str, Any], status: int, query: str = "", **more: Any) -> Row:
    body = {name: value for name, value in fields.items() if name in ("ttl", "grace")}
    return Row("claim_create", _Q | fields, "POST", f"{_AT}?{query}", body, status, changes=status == 201, **more)


def _update(id_: str, fields: dict[str, Any], status: int, **more: Any) -> Row:
    path = f"{_AT}/{id_ if id_.startswith('<') else quote(id_, safe='')}"
    body = {**_Q, "claim_id": id_, **fields}
    return Row("claim_update", body, "PATCH", path, fields, status, changes=status == 204, **more)


def _rows() -> dict[str, Row]:
    held = {**_Q, "claim_id": "<held>"}
    rows = {
        "claim": _create({"ttl": 300, "grace": 60}, 201),
        "claim, defaults": _create({}, 201),
        "claim, limit": _create({"ttl": 60, "grace": 43200, "limit": 1}, 201, "limit=1"),
        "claim, with origin": Row(
            "claim_create",
            {"queue_name": "retried", "include_origin": True},
            "POST",
            "/v2/queues/retried/claims?include_origin=true",
            {},
            204,
        ),
        "claim dead letters": Row(
            "claim_create",
            {"queue_name": "dead_letters", "include_origin": True},
            "POST",
            "/v2/queues/dead_letters/claims?include_origin=true",
            {},
            201,
            changes=True,
        ),
        "claim, nothing is free": Row(
            "claim_create", {"queue_name": "quiet"}, "POST", "/v2/queues/quiet/claims", {}, 204
        ),
        "claim, an absent queue": Row(
            "claim_create", {"queue_name": "absent"}, "POST", "/v2/queues/absent/claims", {}, 204
        ),
        "claim, include_origin as a number": _create({"include_origin": 7}, 400, "include_origin=7", same_text=False),
        "get a claim": Row("claim_get", held, "GET", f"{_AT}/<held>"),
        "get a claim, with origin": Row(
            "claim_get", {**held, "include_origin": True}, "GET", f"{_AT}/<held>?include_origin=true"
        ),
        "renew": _update("<held>", {"ttl": 120, "grace": 90}, 204),
        "renew, ttl only": _update("<held>", {"ttl": 120}, 204),
        "renew, as before": _update("<held>", {}, 204),
        "release": Row("claim_delete", held, "DELETE", f"{_AT}/<held>", status=204, changes=True),
    }
    for limit in (0, 21, -1, _BIG, 2**63 - 1):
        rows[f"claim, limit {limit}"] = _create({"limit": limit}, 400, f"limit={limit}")
    for bad, spelt in (("x", "x"), (1.5, "1.5"), ([], "[]")):
        rows[f"claim, limit {bad}"] = _create({"limit": bad}, 400, f"limit={spelt}", same_text=False)
    rows["claim, wait"] = _create({"wait": 20, "limit": 1}, 201, "wait=20&limit=1")
    rows["claim, wait 0"] = Row(
        "claim_create", {"queue_name": "quiet", "wait": 0}, "POST", "/v2/queues/quiet/claims?wait=0", {}, 204
    )
    for wait in (21, -1, _BIG, 2**63 - 1):
        rows[f"claim, wait {wait}"] = _create({"wait": wait}, 400, f"wait={wait}")
    for bad, spelt in (("x", "x"), (1.5, "1.5"), ([], "[]")):
        rows[f"claim, wait {bad}"] = _create({"wait": bad}, 400, f"wait={spelt}", same_text=False)
    for field in ("ttl", "grace"):
        for value in (*_BAD_SECONDS, 43201):
            rows[f"claim, {field} {value}"] = _create({field: value}, 400)
            rows[f"renew, {field} {value}"] = _update("<held>", {field: value}, 400)
        for value in _NO_SECONDS:
            rows[f"claim, {field} {value!r}"] = _create({field: value}, 400, same_text=False)
            rows[f"renew, {field} {value!r}"] = _update("<held>", {field: value}, 400, same_text=False)
    # Texts that could be an id but are none, and texts that cannot be an id.
    for what, id_ in {
        "absent": "0" * 24,
        "foreign": "<foreign.held>",
        "of a message": "<m0>",
        "with a comma": "a,b",
        "not ASCII": "é",
        "too long": "a" * 200,
        "a path": "..%2f",
    }.items():
        spelt = id_ if id_.startswith("<") else quote(id_, safe="")
        of_one = {**_Q, "claim_id": id_}
        rows[f"get a claim, {what}"] = Row("claim_get", of_one, "GET", f"{_AT}/{spelt}", status=404)
        rows[f"renew, {what}"] = _update(id_, {"ttl": 300}, 404)
        rows[f"release, {what}"] = Row("claim_delete", of_one, "DELETE", f"{_AT}/{spelt}", status=204)
    return rows


ROWS: dict[str, Row] = _rows()
