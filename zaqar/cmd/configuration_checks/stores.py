# SPDX-License-Identifier: Apache-2.0
"""Checks of the stores: their settings, and what the servers say. They make and upgrade nothing in a store."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from oslo_config import cfg

from zaqar import conf as configuration
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.model import Pool
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.pools import fan_out
from zaqar.storage.registry import DriverRegistry, group_of, open_management_store, open_message_store

ANSWER_SECONDS = 10.0
"""How long all stores together have time to answer. The time-outs of the drivers are shorter."""

_STORES = ("message_store", "management_store")

_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"}
)
"""File systems, as /proc/self/mounts names them, on which the locks and shared memory of SQLite may not work."""


_OWN_OPTIONS_OF_MONGODB = frozenset({"w", "j", "journal", "fsync", "readpreference", "readconcernlevel"})
"""Options of a URI, in lower case, that the driver replaces by its own."""


def find_relaxed_sqlite(examined: Examined) -> Iterator[Complaint]:
    """SQLite that loses acknowledged messages: in memory, or not synchronous."""
    for which in _STORES:
        group = f"drivers:{which}:sqlalchemy"
        uri = _uri_of(examined.conf, which)
        if examined.conf.drivers[which] != "sqlalchemy" or not _is_sqlite(uri):
            continue
        if _path_of(uri) is None:
            yield Complaint(f"[{group}] uri", "a database in memory ends with its process, and all messages with it.")
        elif examined.conf[group].synchronous == "NORMAL":
            yield Complaint(f"[{group}] synchronous", "with NORMAL a power cut may lose acknowledged changes.")


def find_ignored_write_concerns(examined: Examined) -> Iterator[Complaint]:
    """Options in the URI of MongoDB that the driver replaces by its own."""
    for which in _STORES:
        group = f"drivers:{which}:mongodb"
        if group_of(which, examined.conf.drivers[which]) != group:
            continue
        query = str(examined.conf[group].uri or "").partition("?")[2]
        names = {part.partition("=")[0] for part in query.replace(";", "&").split("&")}
        if ignored := sorted(name for name in names if name.lower() in _OWN_OPTIONS_OF_MONGODB):
            yield Complaint(
                f"[{group}] uri",
                f"{', '.join(ignored)} has no effect; a change is acknowledged when a majority has it in its journal.",
            )


def find_network_file_systems(examined: Examined) -> Iterator[Complaint]:
    """SQLite on a network file system."""
    mounts = _read_mounts(Path("/proc/self/mounts"))
    for which in _STORES:
        if examined.conf.drivers[which] != "sqlalchemy" or (path := _path_of(_uri_of(examined.conf, which))) is None:
            continue
        kind = _file_system_of(path, mounts)
        if kind in _NETWORK_FILE_SYSTEMS:
            location = "[DEFAULT] state_dir"
            if examined.is_set(f"drivers:{which}:sqlalchemy", "uri"):
                location = f"[drivers:{which}:sqlalchemy] uri"
            yield Complaint(
                location, f"SQLite on a network file system ({kind}) may lose or damage messages; use a local disk."
            )


def _uri_of(conf: cfg.ConfigOpts, which: str) -> str:
    """The URI of a store on SQL. Unlike ``conf.sqlalchemy_uri`` it does not make the state directory."""
    group = f"drivers:{which}:sqlalchemy"
    if Examined(conf).is_set(group, "uri"):
        return str(conf[group].uri)
    return f"sqlite:///{configuration.state_dir(conf) / configuration.DATABASE_NAME}"


def _path_of(uri: str) -> Path | None:
    """The file of an SQLite database; None for one in memory, and for another database."""
    path = uri.partition("://")[2].removeprefix("/")
    return Path(path) if _is_sqlite(uri) and path not in ("", ":memory:") else None


def _is_sqlite(uri: str) -> bool:
    return uri.lower().startswith("sqlite")


def _read_mounts(path: Path) -> list[tuple[str, str]]:
    """The mount points and their file systems; empty on a system without that file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    fields = (line.split(" ") for line in lines)
    return [(each[1].encode().decode("unicode_escape"), each[2]) for each in fields if len(each) > 2]


def _file_system_of(path: Path, mounts: Sequence[tuple[str, str]]) -> str | None:
    real = Path(os.path.realpath(path))
    found = [
        (len(Path(point).parts), number, kind)
        for number, (point, kind) in enumerate(mounts)
        if real.is_relative_to(point)
    ]
    # The longest mount point counts, and of several mounts on it the last.
    return max(found)[2] if found else None


# -- the servers ------------------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A store that is asked. ``pool`` is its pool, if it has one."""

    which: str
    pool: Pool | None = None

    def option(self, conf: cfg.ConfigOpts) -> str:
        if self.pool is not None:
            return "[DEFAULT] pooling"
        return f"[{group_of(self.which, conf.drivers[self.which])}] uri"


class _Answer(NamedTuple):
    complaints: list[Complaint]
    pools: Sequence[Pool] | None = None
    """The pools of a management store; None if it could not be asked."""


def find_by_asking(examined: Examined) -> Iterator[Complaint]:
    """Stores that do not answer or cannot be used, messages that they may lose, and pools that are missing."""
    conf = examined.conf
    (management,) = _ask(conf, [_Asked("management_store")])
    yield from management.complaints
    asked = [_Asked("message_store")]
    if conf.pooling:
        has_virtual_pool = conf["pooling:catalog"].enable_virtual_pool
        if management.pools == () and not has_virtual_pool:
            yield Complaint(
                "[DEFAULT] pooling",
                "there are no pools, so no queue can be made until an administrator has registered one.",
            )
        asked = asked if has_virtual_pool else []
        asked += [_Asked("message_store", pool) for pool in management.pools or ()]
    for answer in _ask(conf, asked):
        yield from answer.complaints


def _ask(conf: cfg.ConfigOpts, asked: Sequence[_Asked]) -> list[_Answer]:
    answers = fan_out(partial(_ask_one, conf), asked, seconds=ANSWER_SECONDS)
    return [answer or _silent(conf, each) for each, answer in zip(asked, answers, strict=True)]


def _silent(conf: cfg.ConfigOpts, asked: _Asked, reason: str = f"within {ANSWER_SECONDS:g} s") -> _Answer:
    if asked.pool is not None:
        sentence = f"Pools that do not answer, and whose queues are not served: {asked.pool.name}."
        return _Answer([Complaint(asked.option(conf), sentence)])
    return _Answer([Complaint(asked.option(conf), f"the store does not answer: {reason}.", is_error=True)])


def _ask_one(conf: cfg.ConfigOpts, asked: _Asked) -> _Answer:
    try:
        if not _is_there(conf, asked):
            return _Answer([], ())
        store = _open(conf, asked)
        try:
            store.ping()
            if isinstance(store, ManagementStore):
                return _Answer([], store.catalog.get().pools if conf.pooling else ())
            return _Answer([*_describe_losses(conf, asked, store)])
        finally:
            store.close()
    except StartupError as exc:
        complaint = Complaint.of(exc, asked.option(conf))
        # The service starts without a pool.
        return _Answer([complaint if asked.pool is None else complaint._replace(is_error=False)])
    except StoreUnavailable as exc:
        # pymongo describes the whole replica set.
        return _silent(conf, asked, textwrap.shorten(str(exc.__cause__ or exc), 160, placeholder=" ...").rstrip("."))


def _is_there(conf: cfg.ConfigOpts, asked: _Asked) -> bool:
    """Whether there is a store to ask. The service itself makes the SQLite file in the state directory, or of a pool.

    Raises StartupError for another SQLite file that is missing: the service does not make it.
    """
    which, pool = asked
    if pool is None and conf.drivers[which] != "sqlalchemy":
        return True
    uri = _uri_of(conf, which) if pool is None else pool.uri
    path = _path_of(uri)
    if path is None or path.exists():
        return not _is_sqlite(uri) or path is not None
    if pool is None and Examined(conf).is_set(f"drivers:{which}:sqlalchemy", "uri"):
        raise StartupError(f"there is no SQLite database {path}: run zaqar-sql-db-manage upgrade.")
    return False


def _open(conf: cfg.ConfigOpts, asked: _Asked) -> ManagementStore | MessageStore:
    if asked.pool is not None:
        return DriverRegistry(conf).open_as_it_is(asked.pool)
    if asked.which == "message_store":
        return open_message_store(conf, as_it_is=True)
    return open_management_store(conf, as_it_is=True)


def _describe_losses(conf: cfg.ConfigOpts, asked: _Asked, store: MessageStore) -> Iterator[Complaint]:
    durability = store.durability()
    place = f"pool '{asked.pool.name}': " if asked.pool is not None else ""
    for warning in durability.get("warning", "").split("; "):
        if warning:
            yield Complaint(asked.option(conf), f"{place}{warning}.")
    if durability.get("members") == "1":
        yield Complaint(
            asked.option(conf), f"{place}the replica set has one member, and with it all messages would be lost."
        )
