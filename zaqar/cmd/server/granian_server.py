# SPDX-License-Identifier: Apache-2.0
"""Runs granian on a socket that is already open: ``python -m zaqar.cmd.server.granian_server --fd=N OPTIONS``.

``zaqar-server`` starts it. granian itself would open the port in each worker, long after ``zaqar-server`` has found it
free. If another program took the port in between, every worker would end at every attempt.
"""

from __future__ import annotations

import argparse
import socket
import sys
from typing import Any

from granian import cli
from granian.net import SocketHolder
from granian.server.common import AbstractServer

from zaqar.cmd.signals import let_sigterm_end_new_children


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--fd", type=int, required=True)
    options, rest = parser.parse_known_args(argv)
    listener = socket.socket(fileno=options.fd)
    listener.set_inheritable(True)

    class InheritedSocketServer(cli.Server):  # type: ignore[misc]
        """Passes the listening socket to each worker, as granian does with the socket of its option ``uds``."""

        def _init_shared_socket(self) -> None:
            self._ssp = None
            self._sfd = listener.fileno()
            self._shd = SocketHolder(self._sfd, False, self.backlog)
            self._sso = listener

        def signal_handler_interrupt(self, *arguments: Any) -> None:
            # Each worker closes its copy when it stops. Close this one too: while it is open, the system accepts
            # connections that no process serves.
            listener.close()
            super().signal_handler_interrupt(*arguments)

        def serve(self, *arguments: Any, **options: Any) -> None:
            # Not MPServer.serve, which only adds a warning about many threads. A thread that waits for the body of a
            # slow client, or for the store, needs no processor. With few threads slow clients would keep all others
            # out.
            AbstractServer.serve(self, *arguments, **options)

    let_sigterm_end_new_children()
    cli.Server = InheritedSocketServer
    cli.cli(rest, prog_name="granian", auto_envvar_prefix="GRANIAN")


if __name__ == "__main__":
    main(sys.argv[1:])
