# SPDX-License-Identifier: Apache-2.0
"""The application in-process, on memory stores, with callers whom a real Keystone authenticates."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from falcon import testing

from tests.api.client import ALICE
from tests.keystone import Keystone
from zaqar import app, conf
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app


class ShiftedClock:
    """The time of this machine, which Keystone uses too, plus the seconds by which a test has advanced it."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return time.time() + self.passed

    def advance(self, seconds: float) -> None:
        self.passed += seconds


def configure(path: Path, lines: str, **options: Any) -> Any:
    """Configuration from a file with these lines. ``options`` override single options, as ``group__option``."""
    path.write_text(lines)
    configuration = conf.load(default_config_files=[str(path)])
    for name, value in options.items():
        group, _, option = name.rpartition("__")
        configuration.set_override(option, value, group or None)
    return configuration


class AuthenticatedApi:
    """One worker. ``questions`` counts the tokens about which it asked Keystone."""

    def __init__(self, keystone: Keystone, folder: Path, lines: str = "", **options: Any) -> None:
        text = f"{keystone.options()}[keystone_authtoken]\n{lines}\n"
        self.clock = ShiftedClock()
        self.parts = app.build(
            configure(folder / "zaqar.conf", text, **{"admin_mode": True, **options}),
            clock=self.clock,
            management=MemoryManagementStore(),
            messages=MemoryMessageStore(),
        )
        self.application = make_app(self.parts)
        self.mounted_at = ""
        self.questions = 0
        assert self.parts.tokens is not None
        self.tokens = self.parts.tokens
        self.library: Any = self.tokens._started
        server = self.library._identity_server
        server.verify_token = self._counted(server.verify_token)

    def _counted(self, verify: Callable[..., Any]) -> Callable[..., Any]:
        def verify_token(*arguments: Any, **named: Any) -> Any:
            self.questions += 1
            return verify(*arguments, **named)

        return verify_token

    def request(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> testing.Result:
        """Send a request; ``X_Roles="admin"`` is the header X-Roles."""
        sent = {"Client-ID": ALICE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if token is not None:
            sent["X-Auth-Token"] = token
        path, _, query = path.partition("?")
        client = testing.TestClient(self.application)
        return client.simulate_request(
            method,
            path,
            query_string=query,
            root_path=self.mounted_at,
            headers=sent,
            body=None if body is None else json.dumps(body),
        )

    def get(self, path: str = "/v2/queues", **kwargs: Any) -> testing.Result:
        return self.request("GET", path, **kwargs)

    def status(self, path: str = "/v2/queues", method: str = "GET", **kwargs: Any) -> int:
        return self.request(method, path, **kwargs).status_code

    def forget(self) -> None:
        """Empty the worker's cache of tokens, as if it had just started."""
        # Forward by more than the life of a token, and back: entries cached in between would be from the future.
        self.tokens._cache = type(self.tokens._cache)(self.clock)
        for key in self.library._details:
            self.library._details.forget(key)
