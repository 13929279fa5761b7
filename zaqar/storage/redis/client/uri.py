# SPDX-License-Identifier: Apache-2.0
"""Parse the URI of a Redis store. Pure: nothing is resolved or opened here.

::

    redis://[user:password@]host[:port][/db]            one server; rediss:// with TLS
    redis:///path/to/redis.sock                         a unix socket
    redis://host[:port],host[:port]/?master=name        Sentinels
    redis://host[:port],host[:port]/?cluster=true       some nodes of a Cluster

If anything is wrong, ``parse`` raises StartupError: one sentence that shows neither the password nor the URI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from zaqar.errors import StartupError
from zaqar.uris import is_host

PORT = 6379
SENTINEL_PORT = 26379
SOCKET_TIMEOUT = 2.0
"""Seconds to connect, and seconds to wait for a reply, unless the URI says otherwise."""


@dataclass(frozen=True)
class Tls:
    """How the server's certificate is checked, and our own one. Without ``verify`` any certificate is accepted."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify: bool = True
    check_hostname: bool = True


@dataclass(frozen=True)
class RedisAddress:
    """Where the server is and how to log in.

    ``hosts`` are Sentinels if ``master`` is set, and nodes of a Cluster if ``cluster`` is.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    master: str | None = None
    cluster: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    socket_timeout: float = SOCKET_TIMEOUT
    tls: Tls | None = None

    def __str__(self) -> str:
        """The address for logs, without secrets."""
        if self.path is not None:
            return self.path
        where = ",".join(_spell(host, port) for host, port in self.hosts)
        if self.master is not None:
            return f"{self.master} of the Sentinels {where}"
        return f"the Cluster of {where}" if self.cluster else where


def parse(uri: str) -> RedisAddress:
    """The address that a URI names. Raises StartupError if the URI cannot be used."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("redis", "rediss"):
        raise _refusal("it has to begin with redis:// or rediss://")
    try:
        # urlsplit does not treat the scheme "redis" in any special way.
        parts = urlsplit(f"//{rest}", scheme="redis")
    except ValueError as exc:
        raise _refusal("its host is malformed") from exc
    if parts.fragment:
        raise _refusal("it has a part after '#'; write %23 where the character is meant")
    query = _query(parts.query)
    login, _, hosts = parts.netloc.rpartition("@")
    values: dict[str, Any] = {"hosts": _hosts(hosts, SENTINEL_PORT if "master" in query else PORT)}
    _read_path(parts.path, values)
    _read_query(query, values, tls=scheme == "rediss")
    _read_login(login, values)
    address = RedisAddress(**values)
    _check(address)
    return address


def _refusal(reason: str) -> StartupError:
    return StartupError(f"The URI of the Redis server cannot be used: {reason}.")


def _query(text: str) -> dict[str, str]:
    try:
        # A URI is no form: "+" is a plus sign, which a password may have.
        pairs = parse_qsl(text.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except ValueError as exc:
        raise _refusal("what comes after '?' has to be of the form name=value&name=value") from exc
    query = dict(pairs)
    if len(query) != len(pairs):
        raise _refusal("an option after '?' is given twice")
    for name in query:
        if name not in _OPTIONS:
            raise _refusal(f"it has no option '{name}'" if name.isidentifier() else "an option after '?' is unknown")
    # An empty option counts as absent, because configuration files are written from templates.
    return {name: value for name, value in query.items() if value}


def _hosts(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    return tuple(_host(each, default_port) for each in text.split(",")) if text else ()


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise _refusal("a port has to be a number up to 65535") from exc
    if not host or any(character.isspace() for character in host) or not is_host(host):
        raise _refusal("a host is empty or malformed")
    if port == 0 or text.endswith(":"):
        raise _refusal("a port has to be a number up to 65535")
    return host, default_port if port is None else port


def _read_path(path: str, values: dict[str, Any]) -> None:
    path = unquote(path)
    if path in ("", "/"):
        return
    if path[1:].isascii() and path[1:].isdigit():
        values["db"] = int(path[1:])
    elif values["hosts"]:
        raise _refusal("after a host comes the number of a database, or nothing; a unix socket has no host")
    elif "\0" in path:
        raise _refusal("the path of the unix socket is malformed")
    else:
        values["path"] = path


def _read_login(text: str, values: dict[str, Any]) -> None:
    if text:
        username, _, password = text.partition(":")
        login = {"username": unquote(username) or None, "password": unquote(password) or None}
        for name, value in login.items():
            if value is not None:
                if values.get(name) is not None:
                    raise _refusal("user or password are given twice, before the host and after '?'")
                values[name] = value


def _truth(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return known[text.lower()]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 60:
        raise ValueError
    return seconds


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "master": ("master", str, "a name"),
    "cluster": ("cluster", _truth, "true or false"),
    "socket_timeout": ("socket_timeout", _seconds, "a number of seconds, more than 0 and at most 60"),
    "dbid": ("db", _database, "the number of a database"),
    "db": ("db", _database, "the number of a database"),
    "redis_username": ("username", str, "a name"),
    "redis_password": ("password", str, "a password"),
    "sentinel_username": ("sentinel_username", str, "a name"),
    "sentinel_password": ("sentinel_password", str, "a password"),
    "tls_ca": ("ca", str, "a path"),
    "tls_cert": ("certificate", str, "a path"),
    "tls_key": ("key", str, "a path"),
    "tls_verify": ("verify", _truth, "true or false"),
    "tls_check_hostname": ("check_hostname", _truth, "true or false"),
}
"""By the name in the URI: the field, the parser of its text, and what an error says that it has to be."""


def _read_query(query: Mapping[str, str], values: dict[str, Any], *, tls: bool) -> None:
    secure: dict[str, Any] = {}
    for name, text in query.items():
        field_name, read, expected = _OPTIONS[name]
        target = secure if name.startswith("tls_") else values
        if field_name in target:
            raise _refusal("the database is given twice")
        try:
            target[field_name] = read(text)
        except (ValueError, KeyError) as exc:
            raise _refusal(f"{name} has to be {expected}") from exc
    if secure and not tls:
        raise _refusal("options that begin with tls_ go with rediss://")
    if tls:
        values["tls"] = Tls(**secure)


def _check(address: RedisAddress) -> None:
    if address.path is None and not address.hosts:
        raise _refusal("it names neither a host nor the path of a unix socket")
    if address.path is not None and (address.master or address.cluster or address.tls):
        raise _refusal("a unix socket goes without Sentinel, Cluster and TLS")
    if address.master and address.cluster:
        raise _refusal("master (Sentinel) and cluster exclude each other")
    if len(address.hosts) > 1 and not (address.master or address.cluster):
        raise _refusal("several hosts need master=<name>, for Sentinel, or cluster=true")
    if address.cluster and address.db:
        raise _refusal("a Cluster has the database 0 only")
    if address.username and not address.password:
        raise _refusal("a user needs a password")
    if (address.sentinel_username or address.sentinel_password) and not address.master:
        raise _refusal("a login for Sentinels needs master=<name>")
    if address.tls and bool(address.tls.certificate) != bool(address.tls.key):
        raise _refusal("tls_cert and tls_key go together")


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
