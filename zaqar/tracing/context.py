# SPDX-License-Identifier: Apache-2.0
"""The trace context of a message: the headers ``traceparent`` and ``tracestate`` of W3C Trace Context, as one text.

The text is ``traceparent``, or ``traceparent tracestate`` with a space between. Stores keep it as it is. The transports
read it, the senders of notifications write it.
"""

from __future__ import annotations

import re

MOST_TRACESTATE = 512
"""Characters of a ``tracestate`` that are kept (section 3.3.1.5). A longer one is dropped whole."""

_TRACEPARENT = re.compile(
    # The version ff is invalid, and so are ids of zeros only (section 3.2.2). A later version may have more fields.
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:\Z|-)"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]*")
_LENGTH = 55
"""Characters of a ``traceparent`` of version 00, and of the part of a later one that this version understands."""


def read(traceparent: str, tracestate: str = "") -> str | None:
    """Return the trace context of two headers; None if ``traceparent`` is not valid. Never raises.

    A ``tracestate`` that is not valid is left out: the standard wants it ignored, and a trace is no reason to refuse a
    request.
    """
    found = _TRACEPARENT.match(traceparent)
    if found is None or (found[1] == "00" and len(traceparent) != _LENGTH):
        return None
    # Section 3.2.4: what this version passes on has the form of version 00.
    parent = f"00{traceparent[2:_LENGTH]}"
    state = tracestate.strip()
    if not state or len(state) > MOST_TRACESTATE or not _TRACESTATE.fullmatch(state):
        return parent
    return f"{parent} {state}"


def headers_of(trace: str) -> dict[str, str]:
    """Return the headers of a trace context, by their names in lower case."""
    traceparent, _, tracestate = trace.partition(" ")
    return {"traceparent": traceparent, "tracestate": tracestate} if tracestate else {"traceparent": traceparent}


def is_sampled(trace: str) -> bool:
    """Whether the caller records its trace, by the flag of section 3.2.2.5.1."""
    return int(trace[53:_LENGTH], 16) & 1 == 1


def tracestate_of(trace: str) -> str:
    """Return the ``tracestate`` of a trace context; empty if it has none."""
    return trace.partition(" ")[2]
