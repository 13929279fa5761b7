# SPDX-License-Identifier: Apache-2.0
"""Streams in the OpenAPI description: their parameters and the additional answer to the GET that lists messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.schemas.fields import JsonSchema
from zaqar.transport.wsgi.operation import STRING
from zaqar.transport.wsgi.requests import EVENT_STREAM

QUERY: Mapping[str, tuple[str, JsonSchema]] = {
    "from": (
        "Of a stream without `marker` and `Last-Event-ID`: where it begins.",
        {"type": "string", "enum": ["now", "oldest"], "default": "now"},
    ),
    "signature": ("Of a stream with a pre-signed URL, which needs no headers: what `share` has answered.", STRING),
    "expires": ("The same; at most an hour ahead.", STRING),
    "project": ("The same.", STRING),
    "paths": ("The same, comma-separated.", STRING),
    "methods": ("The same, comma-separated.", STRING),
}

HEADERS: Mapping[str, tuple[str, JsonSchema]] = {
    "Last-Event-ID": ("Of a stream: the last `id` that was received. It wins over `marker` and `from`.", STRING)
}

CONTENT: Mapping[str, Any] = {
    EVENT_STREAM: {
        "schema": {
            "type": "string",
            "description": "Server-sent events: `open`, `message` (data is a `Message`), `reset`, `bye`. It goes on "
            "as long as the client may read.",
        }
    }
}
"""The media type of a stream, which the answer 200 has besides JSON."""

NO_CONTENT = "Of a stream with `Last-Event-ID`: the topic was deleted. Do not connect again."
TOO_MANY = "Or a stream, and the project has as many as it may have. Retry-After says when to try again."
