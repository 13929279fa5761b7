# SPDX-License-Identifier: Apache-2.0
"""nginx with the sample configuration, in front of a running service."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.acceptance.programs import find
from tests.acceptance.test_keystone_certificates import Authority
from tests.servers import end_with_parent, free_port

SAMPLE = Path(__file__).parents[2] / "etc" / "nginx" / "zaqar.conf"
SECONDS = 30.0
USERS = ("shop", "bank")
PASSWORD = "swordfish"
OTHER_SERVER = "# server 192.0.2.12:8888 "
"""Begins the line of the sample for a second server."""
SHUTDOWN_SECONDS = 1
"""How long connections may last after a reload."""

_MAIN = """\
daemon off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes 1;
worker_shutdown_timeout {shutdown}s;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/zaqar.conf;
}}
"""


class Nginx:
    """One nginx, in front of these two addresses (host and port).

    ``changes`` maps texts of the sample to their replacements, such as shorter times.
    """

    def __init__(self, http: str, websocket: str, folder: Path, changes: Mapping[str, str]) -> None:
        program = find("nginx", package="nginx-light")
        self.port = free_port()
        self.folder = folder
        authority = Authority("nginx")
        self.tls = ssl.create_default_context(cadata=authority.pem)
        certificate = str(authority.write_certificate(folder / "certificate.pem"))
        (folder / "htpasswd").write_text("".join(f"{user}:{{PLAIN}}{PASSWORD}\n" for user in USERS))
        text = SAMPLE.read_text()
        places = {
            "    server 127.0.0.1:8888 ": f"    server {http} ",
            "    server 127.0.0.1:9000 ": f"    server {websocket} ",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/etc/ssl/certs/messaging.example.org.pem": certificate,
            "/etc/ssl/private/messaging.example.org.key": certificate,
            "/etc/zaqar/htpasswd": str(folder / "htpasswd"),
            "/var/log/nginx": str(folder),
        }
        for old, new in {**places, **changes}.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "zaqar.conf").write_text(text)
        # The worker processes of nginx must be able to read the files of this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user, shutdown=SHUTDOWN_SECONDS))
        self._log = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS).close()
            except OSError:
                assert self.process.poll() is None, (self.folder / "output").read_text()
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        self._log.close()

    def reload(self) -> None:
        """New workers take over; the connections of the old ones end within ``SHUTDOWN_SECONDS``."""
        self.process.send_signal(signal.SIGHUP)

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    def logs(self) -> str:
        """All log lines of nginx."""
        return "".join(path.read_text() for path in (*self.folder.glob("*.log"), self.folder / "output"))


def password_of(user: str) -> str:
    """The value of the header ``Authorization`` for a user."""
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
