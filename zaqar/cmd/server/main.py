# SPDX-License-Identifier: Apache-2.0
"""``zaqar-server``: runs the whole service with one command. Reads the command line and the configuration, opens the
ports, and starts the processes of the service under a supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib.util
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

from oslo_config import cfg

from zaqar import conf as configuration
from zaqar import private_files
from zaqar.access.http_server import WORKERS_VARIABLE
from zaqar.cmd import failures
from zaqar.cmd.listening import (
    Address,
    address_of,
    configured_metrics_address,
    configured_websocket_address,
    listen,
    parse_address,
)
from zaqar.cmd.server.drain import stop_accepting
from zaqar.cmd.server.preflight import survey_stores
from zaqar.cmd.server.supervisor import Part, Supervisor
from zaqar.errors import StartupError

_SWEEP_SECONDS = 60
_MOST_DEFAULT_WORKERS = 4
_ANSWER_SECONDS = 30.0

_DESCRIPTION = """\
Run the message queue service: the HTTP API, the WebSocket API, a notifier that sends messages
to subscribers, and a sweeper that removes expired messages.

Without arguments and without a configuration file it listens on 127.0.0.1:8888 (HTTP) and
127.0.0.1:9000 (WebSocket) and keeps messages in SQLite, in the state directory.
"""
_EPILOG = """\
signals:
  TERM, INT (Ctrl-C)   finish the running requests, then end; under 10 seconds
                       after [DEFAULT] drain_delay (0), which a second signal ends
  HUP                  read configuration and policy again, without an interruption

examples:
  zaqar-server --state-dir ./data --bind 127.0.0.1:9999
  zaqar-server --config-file /etc/zaqar/zaqar.conf --workers 8
  zaqar-server --config-file /etc/zaqar/zaqar.conf --check
"""


class Endpoints(NamedTuple):
    """The address of each transport; None for a transport that is not served."""

    http: Address | None
    websocket: Address | None


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    command = _check if options.check else _serve
    try:
        return failures.run("zaqar-server", lambda: command(options))
    except KeyboardInterrupt:
        # Ctrl-C before the supervisor has started. No child process is running.
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="zaqar-server",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="FILE",
        help="read this file; may be repeated, later files win (default: /etc/zaqar/zaqar.conf if it exists)",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="keep the database and the lock of this server here (default: $XDG_STATE_HOME/zaqar or "
        "~/.local/state/zaqar)",
    )
    parser.add_argument("--bind", type=parse_address, metavar="HOST:PORT", help="listen here (default: 127.0.0.1:8888)")
    websocket = parser.add_mutually_exclusive_group()
    websocket.add_argument(
        "--websocket-bind",
        type=parse_address,
        metavar="HOST:PORT",
        help="serve the WebSocket API here (default: 127.0.0.1:9000)",
    )
    websocket.add_argument("--no-websocket", action="store_true", help="serve no WebSocket API")
    parser.add_argument(
        "--no-notifier", action="store_true", help="start no notifier; run zaqar-notifier on this or another host"
    )
    parser.add_argument(
        "--workers",
        type=_parse_workers,
        metavar="N",
        help="number of processes that serve requests (default: one for each CPU, up to 4)",
    )
    parser.add_argument(
        "--server",
        choices=["gunicorn", "granian"],
        default="gunicorn",
        help="HTTP server; granian is faster and has to be installed: pip install 'zaqar[granian]' (default: gunicorn)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check the configuration and ask the stores; status 1 if there is an error, 0 with warnings only",
    )
    parser.add_argument("--version", action="version", version=f"zaqar-server {version('zaqar')}")
    return parser.parse_args(argv)


def _parse_workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def _check(options: argparse.Namespace) -> int:
    """Print the complaints about the configuration. Returns the exit status."""
    # Import here: the checks load all parts of the service, and the supervisor should stay small.
    from zaqar.cmd import configuration_checks

    _pass_on(options)
    found = configuration_checks.check_all(http=options.bind, websocket=options.websocket_bind)
    complaints = [complaint for its in found.values() for complaint in its]
    errors = [complaint for complaint in complaints if complaint.is_error]
    for complaint in complaints:
        print(f"{'error' if complaint.is_error else 'warning'}: {complaint}")
    if complaints:
        print(f"Errors: {len(errors)}. Warnings: {len(complaints) - len(errors)}.")
    else:
        print("There is nothing to complain about.")
    return failures.FAILURE if errors else 0


def _pass_on(options: argparse.Namespace) -> None:
    """Set the variables by which every process reads the configuration that the command line names."""
    # A policy snapshot in the environment belongs to another server.
    os.environ.pop(configuration.POLICY_SNAPSHOT_VARIABLE, None)
    if options.config_file:
        files = [str(Path(name).absolute()) for name in options.config_file]
        os.environ[configuration.CONFIG_FILE_VARIABLE] = os.pathsep.join(files)
    if options.state_dir:
        os.environ[configuration.STATE_DIR_VARIABLE] = str(Path(options.state_dir).expanduser().absolute())


def _serve(options: argparse.Namespace) -> int:
    # Until the supervisor handles SIGHUP, the signal would end this process. Ignoring it is safe: the child processes
    # read the configuration later than this.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _pass_on(options)
    conf = configuration.load()
    endpoints = _endpoints(options, conf)
    configured_metrics_address(conf)
    folder = configuration.make_state_dir(conf)
    with _lock(folder), ExitStack() as stack:
        http, websocket = _listen(endpoints, stack)
        workers = _count_workers(conf, options.workers)
        configuration.drain_file(conf).unlink(missing_ok=True)  # of a server that was killed
        # Each worker of the API has its share of the rates of [quota].
        os.environ[WORKERS_VARIABLE] = str(workers)
        snapshot = folder / configuration.POLICY_SNAPSHOT_NAME
        # Drop the snapshot of an earlier start: policy files that were removed while the service did not run were
        # removed on purpose, so they are not compared with it.
        snapshot.unlink(missing_ok=True)
        stored = survey_stores(snapshot)
        os.environ[configuration.POLICY_SNAPSHOT_VARIABLE] = str(snapshot)
        parts = [] if http is None else [_api(options.server, workers, http, address_of(http))]
        parts += [] if websocket is None else [_websocket(websocket)]
        supervisor = Supervisor(
            [*parts, *_background_parts(conf, has_notifier=not options.no_notifier)],
            env=os.environ,
            check=_python("zaqar.cmd.server.preflight"),
            drain_file=configuration.drain_file(conf),
            drain_delay=conf.drain_delay,
            stop_accepting=lambda: stop_accepting([each for each in (http, websocket) if each is not None]),
        )
        served = Endpoints(*(None if each is None else address_of(each) for each in (http, websocket)))
        how = f"{options.server}, {workers} worker{'s' if workers > 1 else ''}"
        banner = _banner(conf, served, how, stored)
        asyncio.run(supervisor.run(lambda: _announce(banner, served), stack.close))
    return 0


def _endpoints(options: argparse.Namespace, conf: cfg.ConfigOpts) -> Endpoints:
    """The transports to serve: both, unless ``[drivers] transport`` names one or a command line option says otherwise.

    A configuration that names one was written for a server that serves only one. Another server may serve the other.
    """
    location = conf.get_location("transport", "drivers")
    is_default = location is None or location.location is cfg.Locations.opt_default
    named = None if is_default else conf.drivers.transport
    wsgi = conf["drivers:transport:wsgi"]
    http = options.bind or (None if named == "websocket" else Address(str(wsgi.bind), wsgi.port))
    websocket = options.websocket_bind or (None if named == "wsgi" else configured_websocket_address(conf))
    if http is not None and configuration.is_in_memory(conf):
        if options.websocket_bind:
            raise StartupError("--websocket-bind: processes cannot share a database in memory, so only HTTP is served.")
        websocket = None
    if options.no_websocket:
        websocket = None
    if http is None and websocket is None:
        raise StartupError("--no-websocket: [drivers] transport is 'websocket', so nothing would be served.")
    return Endpoints(http, websocket)


def _listen(endpoints: Endpoints, stack: ExitStack) -> tuple[socket.socket | None, socket.socket | None]:
    """The listening sockets; the stack closes them."""
    http, websocket = endpoints
    hint = " Give another port with --websocket-bind, or use --no-websocket."
    return (
        None if http is None else stack.enter_context(listen(http)),
        None if websocket is None else stack.enter_context(listen(websocket, hint=hint)),
    )


def _lock(state_dir: Path) -> IO[str]:
    """Lock the state directory, by the file with the process id. The lock ends with the process or with the file.

    Raises StartupError if another server holds the lock.
    """
    file = os.fdopen(private_files.open_file(state_dir / configuration.PID_NAME, os.O_RDWR | os.O_APPEND), "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        with file:
            file.seek(0)
            pid = file.read().strip()
        raise StartupError(f"Another zaqar-server (process {pid}) is using the state directory {state_dir}.") from exc
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _count_workers(conf: cfg.ConfigOpts, wanted: int | None) -> int:
    if configuration.is_in_memory(conf):
        if wanted not in (None, 1):
            raise StartupError("--workers: a database in memory cannot be shared, so there can be only one worker.")
        return 1
    return wanted or min(len(os.sched_getaffinity(0)), _MOST_DEFAULT_WORKERS)


def _api(server: str, workers: int, listener: socket.socket, address: Address) -> Part:
    if server == "granian":
        if importlib.util.find_spec("granian") is None:
            raise StartupError("--server granian: it is not installed; 'pip install zaqar[granian]' does that.")
        command = ["zaqar.cmd.server.granian_server", f"--fd={listener.fileno()}", "--interface=wsgi"]
        command += [f"--host={address.host}", f"--port={address.port}"]
        command += ["--respawn-failed-workers", "--workers-kill-timeout=8", "--log-level=warning"]
    else:
        command = ["gunicorn", "--config=python:zaqar.cmd.server.gunicorn_settings", f"--bind=fd://{listener.fileno()}"]
    # The port stays open while the supervisor starts the HTTP server again, so no other program can take it meanwhile.
    command += [f"--workers={workers}", "zaqar.wsgi:application"]
    return Part("API", _python(*command), pass_fds=(listener.fileno(),), reload=signal.SIGHUP)


def _websocket(listener: socket.socket) -> Part:
    command = _python("zaqar.cmd.websocket", f"--fd={listener.fileno()}")
    return Part("WebSocket server", command, pass_fds=(listener.fileno(),), reload=signal.SIGHUP)


def _background_parts(conf: cfg.ConfigOpts, *, has_notifier: bool) -> list[Part]:
    """The parts that serve no clients: the sweeper and the notifier."""
    sweeper = Part("sweeper", _python("zaqar.cmd.gc", f"--every={_SWEEP_SECONDS}"))
    if not has_notifier or configuration.is_in_memory(conf):
        # A notifier cannot see a database in the memory of the API's process.
        return [sweeper]
    return [sweeper, Part("notifier", _python("zaqar.cmd.notifier"))]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _banner(conf: cfg.ConfigOpts, served: Endpoints, how: str, stored: Mapping[str, Any]) -> str:
    drivers = conf.drivers
    place = f"the {drivers.message_store} store"
    if drivers.message_store == "sqlalchemy":
        uri, embedded = configuration.sqlalchemy_uri(conf, "message_store")
        place = uri.removeprefix("sqlite:///") if embedded else f"{uri.partition('://')[0]}, as configured"
    where = [] if served.http is None else [f"http://{served.http} ({how})"]
    where += [] if served.websocket is None else [f"ws://{served.websocket}"]
    lines = [f"zaqar-server {version('zaqar')} listens on {' and '.join(where)}."]
    if "pools" not in stored or stored["survives"]:
        lines.append(f"Messages are kept in {place}.")
    if configuration.is_in_memory(conf):
        lines.append("Notifications are off: an in-memory database cannot be shared with the notifier process.")
    if stored["survives"]:
        lines.append(f"An acknowledged message survives: {stored['survives']}.")
    if stored.get("warning"):
        lines.append(f"Warning: {stored['warning']}.")
    if stored.get("away"):
        lines.append("Warning: a store does not answer. Requests get 503 until it does; the log says why.")
    elif conf.pooling:
        lines += _describe_pools(stored["pools"])
    metrics = configured_metrics_address(conf)
    if metrics is not None and metrics.port:
        lines.append(f"Metrics for Prometheus are at http://{metrics.reachable}/metrics.")
    hosts = {address.host for address in served if address is not None}
    if not conf.auth_strategy and not hosts <= {"127.0.0.1", "::1"}:
        lines.append("Callers are not authenticated: every client that can reach this address can use every project.")
    # granian serves no streams.
    lines += _first_steps(conf, served, has_streams=how.startswith("gunicorn"))
    return "\n".join([*lines, "", "Ctrl-C ends the server."])


def _first_steps(conf: cfg.ConfigOpts, served: Endpoints, *, has_streams: bool) -> list[str]:
    """The part of the banner with commands to paste into a shell."""
    lines: list[str] = []
    client = str(uuid.uuid4())
    if served.http is not None:
        who = (
            "-H X-Auth-Token:$(openstack token issue -f value -c id)" if conf.auth_strategy else "-H X-Project-ID:demo"
        )
        base = f"curl -s -H Client-ID:{client} {who} -H Content-Type:application/json"
        queue = f"http://{served.http.reachable}/v2/queues/greetings"
        body = '{"messages": [{"body": "hello", "ttl": 300}]}'
        lines += [
            "",
            "Post a message, claim it, and look at the queue:",
            f"  {base} -d '{body}' {queue}/messages",
            f"  {base} -X POST {queue}/claims",
            f"  {base} '{queue}/messages?echo=true&include_claimed=true'",
        ]
        if has_streams:
            lines += [
                "",
                "Follow the queue: this shows each message as it is posted, until Ctrl-C:",
                f"  {base} -N -H Accept:text/event-stream '{queue}/messages?from=oldest'",
            ]
    if served.websocket is not None and not conf.auth_strategy:
        headers = {"Client-ID": client, "X-Project-ID": "demo"}
        frame = json.dumps({"action": "subscription_create", "headers": headers, "body": {"queue_name": "greetings"}})
        lines += [
            "",
            "Subscribe over WebSocket: start this program, and enter the second line in it:",
            f"  {sys.executable} -m websockets ws://{served.websocket.reachable}",
            f"  {frame}",
        ]
    return lines


def _describe_pools(pools: Mapping[str, str | None]) -> list[str]:
    if not pools:
        return ["There are no pools yet; an administrator registers them with PUT /v2/pools/{name}."]
    return [
        f"Pool '{name}' does not answer; its queues are served again when it does."
        if survives is None
        else f"In pool '{name}' an acknowledged message survives: {survives or 'see its documentation'}."
        for name, survives in pools.items()
    ]


async def _announce(banner: str, served: Endpoints) -> None:
    for name, address in (("API", served.http), ("WebSocket server", served.websocket)):
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while address is not None and not await _answers(address.reachable):
                    await asyncio.sleep(0.05)
        except TimeoutError as exc:
            raise StartupError(f"The {name} does not answer within {_ANSWER_SECONDS:g} s.") from exc
    print(banner, flush=True)


async def _answers(address: Address) -> bool:
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 ")


if __name__ == "__main__":
    sys.exit(main())
