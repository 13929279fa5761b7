# SPDX-License-Identifier: Apache-2.0
"""What metrics and the access log cost a POST: CPU of the application, in one process, in turns with them off.

``python docs/decisions/measure_observing.py [ROUNDS]``. SQLite in a temporary folder.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

from zaqar import app, conf
from zaqar.transport.wsgi.app import make_app

COUNT = 50
BODY = json.dumps({"messages": [{"body": {"n": 1}, "ttl": 300}]}).encode()


def make(folder: str, **options: object) -> object:
    loaded = conf.load([], default_config_files=[])
    loaded.set_override("state_dir", folder)
    loaded.set_override("synchronous", "NORMAL", "drivers:message_store:sqlalchemy")
    for name, value in options.items():
        group, _, option = name.partition("__")
        loaded.set_override(option, value, group)
    conf.make_state_dir(loaded)
    return make_app(app.build(loaded))


def post(application, trace: bool = False) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v2/queues/q/messages",
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(BODY),
        "wsgi.errors": sys.stderr,
        "CONTENT_LENGTH": str(len(BODY)),
        "CONTENT_TYPE": "application/json",
        "HTTP_CLIENT_ID": "3381af92-2b9e-11e3-b191-71861300734c",
        "HTTP_X_PROJECT_ID": "p",
    }
    if trace:
        environ["HTTP_TRACEPARENT"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    statuses: list[str] = []
    body = list(application(environ, lambda status, *_: statuses.append(status)))
    if not statuses[0].startswith("201"):
        raise SystemExit(f"{statuses[0]}: {body!r}")


def cpu_of(application, **kwargs: bool) -> float:
    """Microseconds of CPU per request."""
    began = time.thread_time_ns()
    for _ in range(COUNT):
        post(application, **kwargs)
    return (time.thread_time_ns() - began) / COUNT / 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    logging.getLogger().addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            "off": make(str(Path(folder) / "off"), metrics__bind=""),
            "off again": make(str(Path(folder) / "again"), metrics__bind=""),
            "metrics": make(str(Path(folder) / "on")),
            "access log of errors": make(str(Path(folder) / "log"), metrics__bind="", logging__access="errors"),
        }
        found: dict[str, list[float]] = {name: [] for name in (*variants, "trace context")}
        for application in variants.values():
            cpu_of(application)
        for _ in range(rounds):
            for name, application in variants.items():
                found[name].append(cpu_of(application))
            found["trace context"].append(cpu_of(variants["off"], trace=True))
        # Other work on the machine only adds to a time, so the lower quartile is nearer to the cost than the median.
        quartile = {name: statistics.quantiles(each, n=4)[0] for name, each in found.items()}
        print(f"off: {quartile['off']:.1f} us of CPU for a POST (lower quartile of {rounds} rounds of {COUNT})")
        for name, each in quartile.items():
            print(f"{name:22} {each - quartile['off']:+.2f} us")


main()
