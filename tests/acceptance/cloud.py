# SPDX-License-Identifier: Apache-2.0
"""A service with a Keystone, found through its catalogue, for tests that act as clients of a cloud."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, Server, free_port, start
from tests.keystone import PASSWORD, REGION, Keystone

SECRET_KEY = "a key of more than thirty-two characters"
CLIENT_ID = "3381af92-2b9e-11e3-b191-71861300734c"

_CONFIG = f"""
[signed_url]
secret_key = {SECRET_KEY}
[notification]
webhook_allowed_networks = 127.0.0.0/8
"""


@dataclass(frozen=True)
class Cloud:
    """A Keystone, a running service, and a project that no other test uses."""

    keystone: Keystone
    server: Server
    project: str

    @property
    def project_id(self) -> str:
        return self.keystone.id_of("project", self.project)

    def new_user(self, *roles: str) -> str:
        """The name of a new user who has these roles in the project; without roles, ``member``."""
        return self.keystone.new_user(self.project, *roles)

    def account(self, user: str) -> dict[str, str]:
        """The account of a user in the project, with the argument names of keystoneauth."""
        return {
            "auth_url": self.keystone.uri,
            "username": user,
            "password": PASSWORD,
            "project_name": self.project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    def environment(self, user: str) -> dict[str, str]:
        """The same account for the ``openstack`` command, with the client id that messages need."""
        account = {f"OS_{name.upper()}": value for name, value in self.account(user).items()}
        return account | {"OS_REGION_NAME": REGION, "OS_MESSAGE_CLIENT_ID": CLIENT_ID, "OS_IDENTITY_API_VERSION": "3"}

    def token(self, user: str) -> str:
        return self.keystone.token(user, self.project)

    def get(self, path: str, token: str) -> Any:
        """The body of the answer to a GET with a token."""
        return self.get_with(path, {"X-Auth-Token": token, "Client-ID": CLIENT_ID})

    def get_with(self, path: str, headers: dict[str, str]) -> Any:
        """The body of the answer to a GET with these headers."""
        with closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        assert answer.status == 200, f"{path}: {answer.status} {text!r}"
        return json.loads(text)

    def bodies(self, queue: str, token: str) -> list[Any]:
        """The bodies of the messages in a queue."""
        return [message["body"] for message in self.get(f"/v2/queues/{queue}/messages?echo=true", token)["messages"]]


@contextmanager
def running_cloud(folder: Path, *lines: str, command: tuple[str, ...] = HTTP_COMMAND) -> Iterator[Cloud]:
    """Start ``zaqar-server`` with more lines of ``[DEFAULT]`` and with the Keystone of the test run."""
    keystone: Keystone = servers.shared("keystone")
    bind = f"127.0.0.1:{free_port()}"
    config = folder / "zaqar.conf"
    config.write_text(keystone.options(bind) + _CONFIG + "\n".join(["[DEFAULT]", *lines]) + "\n")
    options = ("--config-file", str(config), "--workers", "2")
    server = start(folder / "state", port=int(bind.rpartition(":")[2]), options=options, command=command)
    try:
        yield Cloud(keystone, server, keystone.new_project())
    finally:
        server.close()
