# SPDX-License-Identifier: Apache-2.0
"""For the tests of access: callers of every kind, and signatures that are not valid."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping, Sequence

import msgpack
from cryptography import fernet

from tests.acceptance.access import SECRET_KEY
from tests.keystone import Keystone
from zaqar.access import signed_urls

SPOOFED = {
    "X-Roles": "admin",
    "X-Role": "admin",
    "X-User": "admin",
    "X-User-Id": "{admin}",
    "X-User-Name": "admin",
    "X-User-Domain-Id": "default",
    "X-User-Domain-Name": "Default",
    "X-Project": "demo",
    "X-Project-Id": "{demo}",
    "X-Project-Name": "demo",
    "X-Project-Domain-Id": "default",
    "X-Project-Domain-Name": "Default",
    "X-Tenant": "demo",
    "X-Tenant-Id": "{demo}",
    "X-Tenant-Name": "demo",
    "X-Domain-Id": "default",
    "X-Domain-Name": "Default",
    "X-Identity-Status": "Confirmed",
    "X-Is-Admin-Project": "True",
    "X-Service-Catalog": "[]",
    "X-Service-Identity-Status": "Confirmed",
    "X-Service-Roles": "admin,service",
    "X-Service-User-Id": "{admin}",
    "X-Service-User-Name": "zaqar",
    "X-Service-User-Domain-Id": "default",
    "X-Service-User-Domain-Name": "Default",
    "X-Service-Project-Id": "{demo}",
    "X-Service-Project-Name": "service",
    "X-Service-Project-Domain-Id": "default",
    "X-Service-Project-Domain-Name": "Default",
    "OpenStack-System-Scope": "all",
    "X-OpenStack-System-Scope": "all",
    "X-Group-Ids": "admin",
    "Keystone.Token-Info": "{}",
    "Keystone-Token-Auth": "{}",
    "Zaqar.Caller": "admin",
    "X-Auth-Project-Id": "{demo}",
    "X-Trusted-User": "admin",
    "X-Forwarded-User": "admin",
    "Remote-User": "admin",
    "Authorization": "Basic YWRtaW46YWRtaW4=",
    "X-HTTP-Method-Override": "GET",
    "X-HTTP-Method": "GET",
    "X-Method-Override": "GET",
    "X-Original-URL": "/",
    "X-Rewrite-URL": "/",
    "X-Forwarded-Prefix": "/v2",
    "X-Script-Name": "/v2",
}
"""Headers with which a caller claims to be someone else: the headers in which auth_token names a caller, and others."""


def remake_token(keystone: Keystone, token: str, *, key: bytes | None = None, age: float = 0.0) -> str:
    """A Fernet token made with another key, or as if it had been made some seconds earlier."""
    folder = keystone.program.folder / "fernet-keys"
    newest = max(folder.iterdir(), key=lambda file: int(file.name)).read_bytes()
    padded = token + "=" * (-len(token) % 4)
    made = fernet.Fernet(newest).extract_timestamp(padded)
    fields = msgpack.unpackb(fernet.Fernet(newest).decrypt(padded))
    assert [field for field in fields if isinstance(field, float)], "there is no time in the token"
    older = [field - age if isinstance(field, float) else field for field in fields]
    again = fernet.Fernet(key or newest).encrypt_at_time(msgpack.packb(older), made - int(age))
    return again.decode().rstrip("=")


class Callers:
    """Makes a token of each kind, valid or not."""

    def __init__(self, keystone: Keystone) -> None:
        self._keystone = keystone

    def headers(self) -> dict[str, Mapping[str, str]]:
        """The headers of each caller. Most callers are named after their token."""
        keystone = self._keystone
        member, reader, stranger = keystone.token(), keystone.token("reader"), keystone.token("stranger", "other")
        service = keystone.token("aodh", "service")
        demo = keystone.id_of("project", "demo")
        tokens = {
            "an empty token": "",
            "blanks": "  ",
            "an unknown token": uuid.uuid4().hex,
            "a foreign Keystone's token": remake_token(keystone, member, key=fernet.Fernet.generate_key()),
            "a token in two headers": f"{member}, {member}",
            "a token and a word": f"{member} x",
            "a token cut short": member[:-9],
            "a token with a line feed": f"{member}\n{member}",
            "a token with a NUL": f"{member}\0",
            "a long token": "x" * 65536,
            "a token as a bearer's": f"Bearer {member}",
            "an expired token": remake_token(keystone, member, age=7200),
            "a revoked token": self._revoked(),
            "a disabled user": self._disabled(),
            "rules for other paths": self._limited(),
            "unscoped": keystone.token("member", unscoped=True),
            "of a domain": keystone.token("admin", domain="Default"),
            "of the system": keystone.token("admin", system=True),
            "reader of the system": self._of_a_reader_of_the_system(),
            "no role of ours": self._without_a_role_of_ours(),
            "reader": reader,
            "member": member,
            "manager": keystone.token("manager"),
            "admin": keystone.token("admin"),
            "a trust": keystone.token("zaqar", trust=keystone.trust()),
            "an application credential": keystone.token_of(keystone.application_credential()),
            "with blanks around it": f"  {member} ",
            "member elsewhere": stranger,
        }
        return {name: {"X-Auth-Token": token} for name, token in tokens.items()} | {
            "no token": {},
            "a token in a cookie": {"Cookie": f"X-Auth-Token={member}; token={member}"},
            "a service token alone": {"X-Service-Token": service},
            "a bad service token": {"X-Auth-Token": member, "X-Service-Token": "nonsense"},
            "a user as a service": {"X-Auth-Token": member, "X-Service-Token": stranger},
            "a service in between": {"X-Auth-Token": member, "X-Service-Token": service},
            "as X-Storage-Token": {"X-Storage-Token": member},
            "roles claimed by a reader": {
                **{name: value.replace("{demo}", demo) for name, value in SPOOFED.items()},
                "X-Project-Id": "somewhere-else",
                "X-Tenant-Id": "somewhere-else",
                "X-Auth-Token": reader,
            },
            "a claim to be in demo": {
                **{name: value.replace("{demo}", demo) for name, value in SPOOFED.items()},
                "X-Auth-Token": stranger,
            },
        }

    def _revoked(self) -> str:
        token = self._keystone.token()
        self._keystone.revoke(token)
        return token

    def _disabled(self) -> str:
        user = self._keystone.new_user("demo")
        token = self._keystone.token(user)
        self._keystone.set_enabled(user, False)
        return token

    def _limited(self) -> str:
        rules = [("GET", "/v2/nowhere"), ("GET", "/**/nowhere"), ("GET", "/v2/queues/{tag}/nowhere")]
        return self._keystone.token_of(self._keystone.application_credential(access_rules=rules))

    def _of_a_reader_of_the_system(self) -> str:
        keystone, user = self._keystone, self._keystone.new_user("demo")
        path = f"/system/users/{keystone.id_of('user', user)}/roles/{keystone.id_of('role', 'reader')}"
        keystone.request("PUT", path, token=keystone.administrator())
        return keystone.token(user, system=True)

    def _without_a_role_of_ours(self) -> str:
        role = f"role-{uuid.uuid4().hex}"
        self._keystone.request("POST", "/roles", {"role": {"name": role}}, token=self._keystone.administrator())
        return self._keystone.token(self._keystone.new_user("demo", role))


SIGNED = ("URL-Signature", "URL-Paths", "URL-Methods", "URL-Expires", "X-Project-ID")

FORGERIES: Mapping[str, Callable[[dict[str, str]], dict[str, str | None]]] = {
    **{f"without {name}": lambda made, name=name: {name: None} for name in SIGNED},
    **{f"with an empty {name}": lambda made, name=name: {name: ""} for name in SIGNED},
    **{f"with {name} twice": lambda made, name=name: {name: f"{made[name]}, {made[name]}"} for name in SIGNED},
    **{f"with {name} twice, close": lambda made, name=name: {name: f"{made[name]},{made[name]}"} for name in SIGNED},
    "with another project": lambda made: {"X-Project-ID": "0" * 32},
    "with the project as a tenant": lambda made: {"X-Project-ID": None, "X-Tenant-ID": made["X-Project-ID"]},
    "for longer": lambda made: {"URL-Expires": "2099-01-01T00:00:00"},
    "for ever": lambda made: {"URL-Expires": "never"},
    "for more methods": lambda made: {"URL-Methods": "DELETE,GET,POST,PUT"},
    "for more paths": lambda made: {
        "URL-Paths": made["URL-Paths"] + "," + made["URL-Paths"].replace("messages", "claims")
    },
    "for another queue": lambda made: {"URL-Paths": "/v2/queues/another/messages"},
    "with a separator in the paths": lambda made: {"URL-Paths": made["URL-Paths"] + r"\nPOST"},
    "with a separator in the project": lambda made: {"X-Project-ID": r"POST\n" + made["X-Project-ID"]},
    "in capitals": lambda made: {"URL-Signature": made["URL-Signature"].upper()},
    "cut short": lambda made: {"URL-Signature": made["URL-Signature"][:-1]},
    "with another digit": lambda made: {"URL-Signature": made["URL-Signature"][:-1] + "g"},
    "with all its digits 0": lambda made: {"URL-Signature": "0" * 64},
    "with an umlaut": lambda made: {"URL-Signature": "\xfc" + made["URL-Signature"][1:]},
    "as base64": lambda made: {"URL-Signature": base64.b64encode(bytes.fromhex(made["URL-Signature"])).decode()},
    "that is over": lambda made: _signed_by(SECRET_KEY, made, expires="2020-01-01T00:00:00"),
    "by another key": lambda made: _signed_by("another key", made),
    "by an empty key": lambda made: _signed_by("", made),
    "by the key of a confirmation": lambda made: _signed_by(SECRET_KEY, made, bound_to=("a", "b")),
}


def _signed_by(
    key: str, made: dict[str, str], *, expires: str | None = None, bound_to: Sequence[str] = ()
) -> dict[str, str | None]:
    expires = expires or made["URL-Expires"]
    signature = signed_urls.sign(
        key,
        project=made["X-Project-ID"],
        paths=made["URL-Paths"].split(","),
        methods=made["URL-Methods"].split(","),
        expires=expires,
        bound_to=bound_to,
    )
    return {"URL-Signature": signature, "URL-Expires": expires}
