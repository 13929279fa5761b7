# SPDX-License-Identifier: Apache-2.0
"""The undocumented parts of libraries that zaqar uses: a release that changes one fails here.

setup.cfg has an upper bound for each of these libraries. Those of granian and websockets are in
``cmd/server/test_granian_server.py`` and ``transport/websocket/test_library.py``, and those of pymongo in
``storage/mongodb/client/test_library.py``.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import multiprocessing
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import zaqar

ROOT = Path(zaqar.__file__).parent

PRIVATE_ATTRIBUTES = {
    "_sock": "redis",
    "_transaction": "pymongo",
    "_max_await_time_ms": "pymongo",
    "_topology": "pymongo",
    "_servers": "pymongo",
}
"""Attributes of library objects that zaqar reads or writes, and the library."""

BOUNDED = {"granian", "gunicorn", "oslo.config", "psycopg", "pymongo", "redis", "websockets"}


# -- which there are --------------------------------------------------------------------------------------------------


def own_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the private names of zaqar's own modules, classes and objects."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # in __slots__
            yield node.value


def test_each_private_attribute_of_a_library_has_a_test() -> None:
    nodes = [node for path in ROOT.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    own = {*own_names(nodes), *dir(multiprocessing.Process()), "_exit", "_asdict", "_fields", "_make", "_replace"}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    foreign = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    assert foreign <= PRIVATE_ATTRIBUTES.keys()
    assert set(PRIVATE_ATTRIBUTES.values()) <= BOUNDED


@pytest.mark.parametrize("library", sorted(BOUNDED))
def test_the_library_has_an_upper_bound(library: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = [line for text in lists for line in text.splitlines()]
    found = [line for line in lines if re.match(rf"{re.escape(library)}(\[[\w,]+\])?[<>=]", line)]
    assert found
    assert all("<" in line for line in found), found


# -- redis, psycopg ---------------------------------------------------------------------------------------------------


def test_redis_has_its_socket_in() -> None:
    connection = pytest.importorskip("redis.connection")
    for kind in (connection.Connection, connection.SSLConnection, connection.UnixDomainSocketConnection):
        assert kind()._sock is None
    assert "self._sock = sock" in inspect.getsource(connection.AbstractConnection)


def test_psycopg_waits_for_each_answer_by_a_method_that_can_be_overridden() -> None:
    psycopg = pytest.importorskip("psycopg")
    assert list(inspect.signature(psycopg.Connection.wait).parameters)[:3] == ["self", "gen", "interval"]
    assert "self._conn.wait(" in inspect.getsource(psycopg.Cursor.execute)
    assert "self._conn.wait(" in inspect.getsource(psycopg.Cursor.executemany)
    assert "self.wait(" in inspect.getsource(psycopg.Connection.notifies)


def test_psycopg_waits_for_the_states_that_poll_has() -> None:
    waiting = pytest.importorskip("psycopg.waiting")
    assert (int(waiting.Wait.R), int(waiting.Wait.W), int(waiting.Wait.RW)) == (1, 2, 3)
    assert (int(waiting.Ready.R), int(waiting.Ready.W), int(waiting.Ready.RW)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("module", "name"),
    [("numeric", "Int8BinaryDumper"), ("numeric", "FloatBinaryDumper"), ("string", "BytesBinaryDumper")],
)
def test_psycopg_has_dumpers_by_the_names(module: str, name: str) -> None:
    assert inspect.isclass(getattr(pytest.importorskip(f"psycopg.types.{module}"), name))


# -- oslo.config, gunicorn --------------------------------------------------------------------------------------------


def test_oslo_config_shows_the_defaults_of_a_type_with() -> None:
    from oslo_config.types import ConfigType

    assert list(inspect.signature(ConfigType._formatter).parameters) == ["self", "value"]
    assert "self._formatter(" in inspect.getsource(ConfigType.format_defaults)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("handle_exit", ["sig", "frame"]),
        ("handle_abort", ["sig", "frame"]),
        ("handle", ["listener", "client", "addr"]),
        ("handle_request", ["listener_name", "req", "sock", "addr"]),
        ("handle_error", ["req", "client", "addr", "exc"]),
        ("notify", []),
        ("run", []),
    ],
)
def test_gunicorn_calls_the_methods_of_a_worker(method: str, parameters: list[str]) -> None:
    from gunicorn.workers.ggevent import GeventWorker

    assert list(inspect.signature(getattr(GeventWorker, method)).parameters) == ["self", *parameters]


def test_gunicorn_has_what_the_worker_reads() -> None:
    from gunicorn.http.body import Body
    from gunicorn.http.message import Request
    from gunicorn.workers.base import Worker
    from gunicorn.workers.base_async import AsyncWorker
    from gunicorn.workers.ggevent import GeventWorker

    source = inspect.getsource(Worker.__init__)
    for name in ("booted", "alive", "cfg"):
        assert f"self.{name} = " in source
    assert "self.worker_connections" in inspect.getsource(GeventWorker.run)
    assert "self.reader = reader" in inspect.getsource(Body.__init__)
    assert inspect.signature(Request.force_close).parameters.keys() == {"self"}
    assert "except StopIteration" in inspect.getsource(AsyncWorker.handle), "which closes a connection without a log"
