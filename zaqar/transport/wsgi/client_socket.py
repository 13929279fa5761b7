# SPDX-License-Identifier: Apache-2.0
"""Whether the client of a request that takes long is still there."""

from __future__ import annotations

import os
import socket
from typing import Any


def has_client_gone(env: dict[str, Any]) -> bool:
    """Whether the client has closed its connection, or its side of it. False if the server does not show the socket.

    A write tells too late: the first one after the client has gone still succeeds.
    """
    client = env.get("gunicorn.socket")
    if client is None:
        return False
    try:
        # A second descriptor, because the timeout must not change for the server. Below TLS too: an end is an end.
        with socket.socket(fileno=os.dup(client.fileno())) as same:
            same.setblocking(False)
            return same.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
