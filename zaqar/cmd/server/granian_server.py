# SPDX-License-Identifier: Apache-2.0
"""granian on a socket that is already open: ``python -m zaqar.cmd.server.granian_server --fd=N`` and its own options.

granian itself opens the port in each worker, long after ``zaqar-server`` found it free. A port that another program
takes in between ends every worker at every attempt.
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
        """Hands the listener to each worker, as granian does with the socket of its option ``uds``."""

        def _init_shared_socket(self) -> None:
            self._ssp = None
            self._sfd = listener.fileno()
            self._shd = SocketHolder(self._sfd, False, self.backlog)
            self._sso = listener

        def signal_handler_interrupt(self, *arguments: Any) -> None:
            # Workers close theirs as they stop. As long as this one is open, clients connect and wait for nobody.
            listener.close()
            super().signal_handler_interrupt(*arguments)

        def serve(self, *arguments: Any, **options: Any) -> None:
            # MPServer.serve only warns that there are many threads. A thread that waits for a slow client's body, or
            # for the store, needs no processor, and few threads would let slow clients keep the others out.
            AbstractServer.serve(self, *arguments, **options)

    let_sigterm_end_new_children()
    cli.Server = InheritedSocketServer
    cli.cli(rest, prog_name="granian", auto_envvar_prefix="GRANIAN")


if __name__ == "__main__":
    main(sys.argv[1:])
