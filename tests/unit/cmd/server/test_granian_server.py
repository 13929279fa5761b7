# SPDX-License-Identifier: Apache-2.0
"""The private parts of granian that zaqar.cmd.server.granian_server overrides, so that a change of them fails here."""

from __future__ import annotations

import inspect
import multiprocessing
import socket

import pytest

pytest.importorskip("granian")

from granian import cli
from granian.constants import Interfaces
from granian.net import SocketHolder
from granian.server.common import AbstractServer
from granian.server.mp import MPServer, WorkerProcess

from zaqar.access import http_server


def test_the_command_line_makes_a_server_by_a_name_that_can_be_replaced() -> None:
    assert issubclass(cli.Server, AbstractServer)
    assert "server = Server(" in inspect.getsource(cli.cli.callback)


@pytest.mark.parametrize("attribute", ["_ssp", "_shd", "_sfd", "_sso"])
def test_workers_get_the_socket_from(attribute: str) -> None:
    sources = inspect.getsource(MPServer._init_shared_socket) + inspect.getsource(AbstractServer._init_shared_socket)
    assert f"self.{attribute} = " in sources


def test_workers_take_a_socket_that_is_open_already() -> None:
    assert "((self._ssp, self._shd), self._sso)" in inspect.getsource(MPServer._spawn_worker)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert SocketHolder(listener.fileno(), False, 1024).get_fd() == listener.fileno()


def test_granian_handles_signals_in_the_method_that_is_replaced() -> None:
    assert "signal_handler_interrupt" in inspect.getsource(AbstractServer.startup)


def test_only_the_warning_about_threads_is_left_out() -> None:
    # All code that InheritedSocketServer.serve skips.
    source = inspect.getsource(MPServer.serve)
    assert source.count("logger.") == 2
    assert "Python threads" in source and "win32" in source
    assert source.rstrip().endswith("super().serve(spawn_target, target_loader, wrap_loader)")


def test_a_worker_shows_its_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MPServer("zaqar.wsgi", interface=Interfaces.WSGI, blocking_threads=7)
    server._init_shared_socket()
    worker = server._spawn_worker(0, WorkerProcess.wrap_target(MPServer._spawn_wsgi_worker), lambda: None)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: worker.inner)
    assert http_server._count_granian_threads() == 7
