# SPDX-License-Identifier: Apache-2.0
"""A real Keystone for tests: SQLite, Fernet tokens, one process on a free loopback port.

``servers.shared("keystone")`` is that of the test run, for tests that leave the accounts below as they are;
``servers.own(Keystone)`` is for a test that stops it or changes them. Projects are ``demo``, ``other``, ``service`` and
``admin``; everybody's password is :data:`PASSWORD`:

========= ========================================================================
user      roles
========= ========================================================================
admin     admin in ``admin``, in ``demo``, of the domain ``Default``, of the system
manager   manager in ``demo``
member    member in ``demo``
reader    reader in ``demo``
stranger  member in ``other``
nobody    none, in no project
zaqar     admin and service in ``service``: the account of this service, and the trustee
aodh      service in ``service``: a service that calls this one
========= ========================================================================
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.servers import Program, free_port, new_folder
from tests.virtualenvs import KEYSTONE, cache_folder, key_of, made_once

PASSWORD = "not-a-secret-of-anybody"
REGION = "RegionOne"
SERVICES = ("messaging", "messaging-websocket")
NOWHERE = "http://127.0.0.1:9"  # the endpoints before a test sets them

_PROJECTS = ("service", "demo", "other")
_ROLES: Mapping[str, Iterable[tuple[str, str]]] = {
    "admin": [("admin", "demo")],
    "manager": [("manager", "demo")],
    "member": [("member", "demo")],
    "reader": [("reader", "demo")],
    "stranger": [("member", "other")],
    "nobody": [],
    "zaqar": [("admin", "service"), ("service", "service")],
    "aodh": [("service", "service")],
}

# One process, so that a signal reaches all of it and its cache is never stale. Without the cache it is a hundred
# times slower.
# One thread, because transactions in SQLite that read and then write abort each other ("database is locked").
# Keystone parses the command line of the process that imports it.
_PROGRAM = """\
import sys
port = int(sys.argv.pop())
from keystone.wsgi.api import application
from waitress import serve
serve(application, host="127.0.0.1", port=port, threads=1)
"""

_CONFIGURATION = """\
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = fernet
expiration = {token_seconds}
[fernet_tokens]
key_repository = {folder}/fernet-keys
[fernet_receipts]
key_repository = {folder}/fernet-keys
[credential]
key_repository = {folder}/credential-keys
[cache]
enabled = True
backend = dogpile.cache.memory
[identity]
password_hash_rounds = 4
"""


class KeystoneError(Exception):
    """Keystone refused a request of a test."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


@dataclass(frozen=True)
class ApplicationCredential:
    id: str
    secret: str


class Keystone:
    """A running Keystone with the accounts of this module. ``stop`` ends it and removes its data.

    ``token_seconds`` is how long its tokens live; with less than 2, one can end before its first use.
    """

    def __init__(self, *, token_seconds: int = 3600) -> None:
        environment = KEYSTONE.folder()
        # The key covers this source, so another version of this file prepares its own accounts.
        contents = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        prepared = cache_folder() / f"keystone-data-{key_of(*KEYSTONE.requirements, contents)}"
        made_once(prepared, lambda folder: _prepare(environment, folder))
        self._run(environment, _copy(prepared), token_seconds)

    @classmethod
    def _on(cls, environment: Path, folder: Path) -> Keystone:
        keystone = object.__new__(cls)
        keystone._run(environment, folder, token_seconds=3600)
        return keystone

    def _run(self, environment: Path, folder: Path, token_seconds: int) -> None:
        port = free_port()
        self._ids: dict[tuple[str, str], str] = {}
        self._administrator, self._administrator_until = "", 0.0
        self._token_seconds = token_seconds
        _configure(folder, token_seconds)
        _set_port(folder, port)
        command = [str(environment / "bin" / "python"), "-c", _PROGRAM, str(port)]
        variables = {"OS_KEYSTONE_CONFIG_FILES": f"{folder}/keystone.conf"}
        self.program = Program(command, port, folder, environment=variables)
        self.start()

    # -- the process --------------------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.program.port}/v3"

    def start(self) -> None:
        """Start it, or start it again after a kill: on the same port, with the same data."""
        self.program.start()
        self.program.wait_until(lambda: self.request("GET", "") is not None)

    def kill(self) -> None:
        """Send SIGKILL. Returns when the process is gone."""
        self.program.kill()

    def signal(self, number: int) -> None:
        """SIGSTOP makes it silent: it accepts connections and does not answer. SIGCONT ends that."""
        self.program.signal(number)

    def stop(self) -> None:
        self.program.stop()

    # -- requests -----------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: Any = None, *, token: str = "", subject: str = ""
    ) -> dict[str, Any]:
        """The body of the answer to a request below ``/v3``. Raises KeystoneError if it is a refusal."""
        return self._exchange(method, path, body, token, subject)[1]

    def _exchange(self, method: str, path: str, body: Any, token: str, subject: str) -> tuple[str, dict[str, Any]]:
        # Without this header Keystone hides tokens that have access rules.
        headers = {
            "X-Auth-Token": token,
            "X-Subject-Token": subject,
            "Content-Type": "application/json",
            "OpenStack-Identity-Access-Rules": "1",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.program.port, timeout=60)
        with closing(connection):
            connection.request(
                method,
                f"/v3{path}",
                None if body is None else json.dumps(body),
                {name: value for name, value in headers.items() if value},
            )
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 400:
            raise KeystoneError(answer.status, text.decode(errors="replace"))
        return answer.getheader("X-Subject-Token", ""), json.loads(text) if text else {}

    # -- tokens -------------------------------------------------------------------------------------------------------

    def token(
        self,
        user: str = "member",
        project: str = "demo",
        *,
        domain: str = "",
        system: bool = False,
        unscoped: bool = False,
        trust: str = "",
    ) -> str:
        """A token for a project, unless another scope is given: a domain, the system, none, or a trust."""
        scope: Any = {"project": {"name": project, "domain": {"id": "default"}}}
        if domain:
            scope = {"domain": {"name": domain}}
        elif system:
            scope = {"system": {"all": True}}
        elif trust:
            scope = {"OS-TRUST:trust": {"id": trust}}
        elif unscoped:
            scope = "unscoped"
        who = {"name": user, "domain": {"id": "default"}, "password": PASSWORD}
        return self._authenticate({"methods": ["password"], "password": {"user": who}}, scope)

    def token_of(self, credential: ApplicationCredential) -> str:
        """A token made with an application credential."""
        body = {"id": credential.id, "secret": credential.secret}
        return self._authenticate({"methods": ["application_credential"], "application_credential": body})

    def _authenticate(self, identity: dict[str, Any], scope: Any = None) -> str:
        auth = {"identity": identity, **({} if scope is None else {"scope": scope})}
        return self._exchange("POST", "/auth/tokens", {"auth": auth}, "", "")[0]

    def inspect(self, token: str) -> dict[str, Any]:
        """Keystone's data about a valid token. Raises KeystoneError 404 for another token."""
        found: dict[str, Any] = self.request("GET", "/auth/tokens", token=self.administrator(), subject=token)["token"]
        return found

    def revoke(self, token: str) -> None:
        self.request("DELETE", "/auth/tokens", token=self.administrator(), subject=token)

    def administrator(self) -> str:
        """A token that may do everything."""
        now = time.monotonic()
        if now >= self._administrator_until:
            self._administrator = self.token("admin", "admin")
            self._administrator_until = now + self._token_seconds - 60
        return self._administrator

    # -- accounts -----------------------------------------------------------------------------------------------------

    def id_of(self, kind: str, name: str) -> str:
        """The id of a ``project``, ``user``, ``role`` or ``domain`` with this name."""
        if (kind, name) not in self._ids:
            (found,) = self.request("GET", f"/{kind}s?name={name}", token=self.administrator())[f"{kind}s"]
            self._ids[kind, name] = found["id"]
        return self._ids[kind, name]

    def new_project(self) -> str:
        """The name of a new project."""
        name = f"project-{uuid.uuid4().hex}"
        body = {"project": {"name": name, "domain_id": "default"}}
        self.request("POST", "/projects", body, token=self.administrator())
        return name

    def new_user(self, project: str = "demo", *roles: str) -> str:
        """The name of a new user who has these roles in a project; without roles, ``member``."""
        name = f"user-{uuid.uuid4().hex}"
        self._create_user(name, self.administrator())
        for role in roles or ("member",):
            self.grant(role, name, project)
        return name

    def _create_user(self, name: str, token: str) -> None:
        body = {"user": {"name": name, "domain_id": "default", "password": PASSWORD}}
        self.request("POST", "/users", body, token=token)

    def grant(self, role: str, user: str, project: str = "demo") -> None:
        self.request("PUT", self._grant_path(role, user, project), token=self.administrator())

    def withdraw(self, role: str, user: str, project: str = "demo") -> None:
        """Remove a role, which ends the user's tokens for the project."""
        self.request("DELETE", self._grant_path(role, user, project), token=self.administrator())
        _await_next_second()

    def _grant_path(self, role: str, user: str, project: str) -> str:
        ids = (self.id_of("project", project), self.id_of("user", user), self.id_of("role", role))
        return "/projects/{}/users/{}/roles/{}".format(*ids)

    def set_enabled(self, user: str, enabled: bool) -> None:
        """Disable a user or project, which ends its tokens, or enable it again."""
        path = f"/users/{self.id_of('user', user)}"
        self.request("PATCH", path, {"user": {"enabled": enabled}}, token=self.administrator())
        if not enabled:
            _await_next_second()

    def application_credential(
        self,
        user: str = "member",
        project: str = "demo",
        *,
        access_rules: Iterable[tuple[str, str]] = (),
        service: str = "messaging",
        unrestricted: bool = False,
    ) -> ApplicationCredential:
        """A credential of this user. With access rules, pairs of method and path, it opens only these requests."""
        wanted: dict[str, Any] = {"name": uuid.uuid4().hex, "unrestricted": unrestricted}
        if rules := [{"service": service, "method": method, "path": path} for method, path in access_rules]:
            wanted["access_rules"] = rules
        path = f"/users/{self.id_of('user', user)}/application_credentials"
        body = {"application_credential": wanted}
        made = self.request("POST", path, body, token=self.token(user, project))["application_credential"]
        return ApplicationCredential(made["id"], made["secret"])

    def trust(
        self,
        trustor: str = "member",
        trustee: str = "zaqar",
        project: str = "demo",
        *,
        roles: Iterable[str] = ("member",),
        impersonation: bool = True,
        expires_at: datetime | None = None,
    ) -> str:
        """The id of a new trust."""
        wanted = {
            "trustor_user_id": self.id_of("user", trustor),
            "trustee_user_id": self.id_of("user", trustee),
            "project_id": self.id_of("project", project),
            "roles": [{"name": role} for role in roles],
            "impersonation": impersonation,
            "expires_at": expires_at and expires_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        made = self.request("POST", "/OS-TRUST/trusts", {"trust": wanted}, token=self.token(trustor, project))
        return str(made["trust"]["id"])

    def trusts(self, trustor: str = "member") -> list[dict[str, Any]]:
        """The valid trusts of a trustor."""
        path = f"/OS-TRUST/trusts?trustor_user_id={self.id_of('user', trustor)}"
        found: list[dict[str, Any]] = self.request("GET", path, token=self.administrator())["trusts"]
        return found

    # -- the service under test ---------------------------------------------------------------------------------------

    def set_endpoint(self, url: str, service: str = "messaging") -> None:
        """Set the URL of a service in the catalogue."""
        token = self.administrator()
        (found,) = self.request("GET", f"/services?type={service}", token=token)["services"]
        for endpoint in self.request("GET", f"/endpoints?service_id={found['id']}", token=token)["endpoints"]:
            self.request("PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": url}}, token=token)

    def options(self, bind: str = "") -> str:
        """The lines of zaqar.conf that make a service ask this Keystone.

        With ``bind``, an address such as ``127.0.0.1:8888``, the catalogue then has that address for the service.
        """
        if bind:
            self.set_endpoint(f"http://{bind}")
        account = f"auth_type = password\nauth_url = {self.uri}\nusername = zaqar\npassword = {PASSWORD}\n"
        return (
            "[DEFAULT]\nauth_strategy = keystone\n"
            f"[keystone_authtoken]\nwww_authenticate_uri = {self.uri}\n{account}"
            "user_domain_name = Default\nproject_domain_name = Default\nproject_name = service\n"
            f"[trustee]\n{account}user_domain_id = default\n"
        )


def _await_next_second() -> None:
    # An event that ends all tokens of a user also ends tokens that are made later in the same second.
    time.sleep(1.01 - time.time() % 1)


# -- the prepared data ------------------------------------------------------------------------------------------------


def _copy(prepared: Path) -> Path:
    folder = new_folder("keystone")
    shutil.copytree(prepared, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("complete"))
    return folder


def _configure(folder: Path, token_seconds: int = 3600) -> None:
    (folder / "keystone.conf").write_text(_CONFIGURATION.format(folder=folder, token_seconds=token_seconds))


def _set_port(folder: Path, port: int) -> None:
    # Not through the API: before this is done, a client cannot authenticate through the catalogue.
    with closing(sqlite3.connect(folder / "keystone.db")) as database, database:
        database.execute(
            "UPDATE endpoint SET url = ? WHERE service_id IN (SELECT id FROM service WHERE type = 'identity')",
            (f"http://127.0.0.1:{port}/v3",),
        )


def _prepare(environment: Path, prepared: Path) -> None:
    """Fill a folder with an empty Keystone's database and keys, then with accounts through its API."""
    folder = new_folder("keystone")  # it ends with the process that uses it
    _configure(folder)
    owner = ("--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid()))
    urls = [f"--bootstrap-{kind}-url={NOWHERE}/v3" for kind in ("admin", "internal", "public")]
    for arguments in (
        ("db_sync",),
        ("fernet_setup", *owner),
        ("credential_setup", *owner),
        ("bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION, *urls),
    ):
        subprocess.run(
            [environment / "bin" / "keystone-manage", "--config-file", folder / "keystone.conf", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
    keystone = Keystone._on(environment, folder)
    _create_accounts(keystone)
    keystone.kill()  # SQLite has written all that was answered
    shutil.copytree(folder, prepared, dirs_exist_ok=True, ignore=shutil.ignore_patterns("log"))
    keystone.stop()


def _create_accounts(keystone: Keystone) -> None:
    token = keystone.administrator()
    for project in _PROJECTS:
        keystone.request("POST", "/projects", {"project": {"name": project, "domain_id": "default"}}, token=token)
    for user, grants in _ROLES.items():
        if user != "admin":  # made by bootstrap
            keystone._create_user(user, token)
        for role, project in grants:
            keystone.grant(role, user, project)
    admin, role = keystone.id_of("user", "admin"), keystone.id_of("role", "admin")
    keystone.request("PUT", f"/domains/default/users/{admin}/roles/{role}", token=token)
    for kind in SERVICES:
        service = {"type": kind, "name": f"zaqar-{kind}"}
        made = keystone.request("POST", "/services", {"service": service}, token=token)["service"]
        for interface in ("public", "internal", "admin"):
            endpoint = {"service_id": made["id"], "interface": interface, "region_id": REGION, "url": NOWHERE}
            keystone.request("POST", "/endpoints", {"endpoint": endpoint}, token=token)
