# SPDX-License-Identifier: Apache-2.0
"""``/confirm``: the page to which the link of a confirmation mail leads, if the operator has no page of his own.

A GET only shows a question, because programs that scan mail follow its links. A button, and so a POST, confirms. The
reader of the mail has no account, so the link itself is the permission: its query is a signed grant to confirm one
subscription.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import NamedTuple
from urllib.parse import parse_qs

import falcon

from zaqar.access.signed_urls import Claim, SignedUrls
from zaqar.clock import Clock
from zaqar.errors import InvalidInput, NotFound, SignatureRefused
from zaqar.model import QueueName
from zaqar.service.subscriptions import Grant, Subscriptions
from zaqar.transport.wsgi.requests import read_body, read_query

_MOST_BYTES = 4096

_PATH = re.compile(r"/v2/(queue|topic)s/([A-Za-z0-9_.\-]{1,64})/subscriptions/([0-9a-f]{24})/confirm")

_STYLE = """
:root{color-scheme:light dark}
body{margin:0;font:1.05rem/1.5 system-ui,sans-serif;background:#f3f4f6;color:#1c2430}
main{max-width:30rem;margin:12vh auto;padding:2rem;background:#fff;border-radius:.75rem;box-shadow:0 1px 4px #0003}
h1{margin-top:0;font-size:1.4rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:1.5rem 0}
dt{color:#5b6673}
dd{margin:0;overflow-wrap:anywhere;font-weight:600}
form{display:flex;flex-wrap:wrap;gap:.75rem}
button{flex:1 1 10rem;padding:.8rem 1rem;font:inherit;border:1px solid #1f5fbf;border-radius:.5rem;background:#fff;
color:#1f5fbf;cursor:pointer}
button.main{background:#1f5fbf;color:#fff}
@media(max-width:34rem){main{margin:0;min-height:100vh;border-radius:0;box-sizing:border-box}}
@media(prefers-color-scheme:dark){body{background:#14181e;color:#e6e9ee}main{background:#1e242c}dt{color:#9aa5b1}
button{background:transparent;color:#8db8f5;border-color:#8db8f5}button.main{background:#2f6fd0;color:#fff}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    # The URL of the page is a permission. These headers keep it out of caches and of the logs of other sites.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Link(NamedTuple):
    """A link whose signature is valid. ``grant`` tells whether it may confirm the subscription in its present state."""

    queue_name: QueueName
    subscription_id: str
    grant: Grant


class ConfirmationPage:
    open_to_all = True
    for_browsers = True

    def __init__(self, subscriptions: Subscriptions, *, signed_urls: SignedUrls, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._signed_urls = signed_urls
        self._clock = clock

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        link = self._read_link(req)
        _answer(resp, *(_GONE if link is None or not self._is_good(link) else _ask(link.queue_name)))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        link = self._read_link(req)
        _answer(resp, *(_GONE if link is None else self._decide(link, _read_choice(req))))

    def _is_good(self, link: _Link) -> bool:
        try:
            subscription, _ = self._subscriptions.get(link.queue_name, link.subscription_id)
        except NotFound:
            return False
        return link.grant(subscription.grant_terms)

    def _read_link(self, req: falcon.Request) -> _Link | None:
        """The link in the query; None if it is not a link to confirm a subscription, or has expired."""
        try:
            query = read_query(req)
        except InvalidInput:
            return None
        path, project = query.get("Paths", ""), query.get("Project", "")
        parts = _PATH.fullmatch(path)
        if parts is None:
            return None
        names = ("Signature", "Paths", "Methods", "Expires", "Project")
        claim = Claim(*(query.get(name, "") for name in names))
        # Check the signature before the subscription is read, so that invalid links cause no work for a store.
        try:
            valid = self._signed_urls.open(claim, method="PUT", path=path, now=self._clock())
        except SignatureRefused:
            return None
        if valid is None:
            return None
        return _Link(QueueName(project, parts[1], parts[2]), parts[3], valid)

    def _decide(self, link: _Link, confirmed: bool | None) -> tuple[int, str, str]:
        if confirmed is None:
            return _ask(link.queue_name) if self._is_good(link) else _GONE
        try:
            self._subscriptions.set_confirmed(link.queue_name, link.subscription_id, confirmed, grant=link.grant)
        except NotFound:
            return _GONE
        return 200, *(_SUBSCRIBED if confirmed else _UNSUBSCRIBED)


def _read_choice(req: falcon.Request) -> bool | None:
    """Whether the button to confirm (True) or to refuse (False) was pressed; None if the form has neither."""
    form = parse_qs(read_body(req, _MOST_BYTES).decode("latin-1"), max_num_fields=10)
    return {"true": True, "false": False}.get(",".join(form.get("confirmed", ())))


def _ask(queue_name: QueueName) -> tuple[int, str, str]:
    return (
        200,
        "Confirm the subscription",
        f"""<p>Somebody asked to send you the messages of this {queue_name.kind}.
Confirm only if that was you, or if you want them.</p>
<dl><dt>{queue_name.kind.capitalize()}</dt><dd>{html.escape(queue_name.name)}</dd>
<dt>Project</dt><dd>{html.escape(queue_name.project)}</dd></dl>
<form method="post"><button class="main" name="confirmed" value="true">Confirm</button>
<button name="confirmed" value="false">No, unsubscribe</button></form>""",
    )


_SUBSCRIBED = (
    "You are subscribed",
    "<p>Messages that are posted from now on will reach you. You can close this page.</p>",
)
_UNSUBSCRIBED = (
    "You are unsubscribed",
    "<p>No more messages will be sent to you. If this was a mistake, use the link in the message that you get now.</p>",
)
_GONE = (
    404,
    "This link does not work",
    """<p>It has expired, it is not complete, or the subscription is gone. Please copy the whole link from the message
that you got, or ask for a new one by subscribing again.</p>""",
)


def _answer(resp: falcon.Response, status: int, title: str, content: str) -> None:
    resp.status = status
    resp.set_headers(_HEADERS)
    resp.content_type = falcon.MEDIA_HTML
    resp.text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body><main><h1>{title}</h1>
{content}
</main></body>
</html>
"""
