# SPDX-License-Identifier: Apache-2.0
"""A MongoDB replica set of this machine, on free loopback ports, to be killed and started again at will."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

PATIENCE = 60.0


def find_mongod() -> str | None:
    """The server from ``ZAQAR_TEST_MONGOD`` or PATH, None where there is none."""
    return os.environ.get("ZAQAR_TEST_MONGOD") or shutil.which("mongod")


class Member:
    """One server. Killed with -9 it comes back on the same port with the same data."""

    def __init__(self, mongod: str, folder: Path, *, set_name: str | None) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [mongod, "--dbpath", str(folder), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        self._command = [*command, "--replSet", set_name, "--oplogSize", "64"] if set_name else command
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Members:
    """The servers of a set."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet=test"

    def primary(self) -> Member:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for member in self.members:
                if member.process is not None and ask(member, "hello").get("isWritablePrimary"):
                    return member
            time.sleep(0.1)
        raise TimeoutError("no member became primary")

    def initiate(self) -> None:
        hosts = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        config = {"_id": "test", "members": hosts, "settings": {"electionTimeoutMillis": 2000}}
        for member in self.members:  # all have to agree
            wait_for(member)
        ask(self.members[0], {"replSetInitiate": config})
        self.primary()


def ask(member: Member, command: str | dict[str, Any]) -> dict[str, Any]:
    """What one member answers; nothing where it does not."""
    uri = f"mongodb://{member.address}/?directConnection=true&serverSelectionTimeoutMS=2000"
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        try:
            return client.admin.command(command)
        except PyMongoError:
            return {}


def wait_for(member: Member) -> None:
    end = time.monotonic() + PATIENCE
    while not ask(member, "ping"):
        if time.monotonic() > end:
            raise TimeoutError("a server does not come up")


@contextmanager
def running(folder: Path, *, members: int = 3, mongod: str | None = None) -> Iterator[Members]:
    """A replica set, or with ``members=0`` one server that is in none."""
    binary = mongod or find_mongod()
    assert binary is not None
    name = "test" if members else None
    all_ = Members([Member(binary, folder / str(number), set_name=name) for number in range(max(1, members))])
    try:
        for member in all_.members:
            member.start()
        if members:
            all_.initiate()
        else:
            wait_for(all_.members[0])
        yield all_
    finally:
        for member in all_.members:
            member.kill()
