# SPDX-License-Identifier: Apache-2.0
"""Promise 12, outages: in a gevent process a slow name server delays only the requests that need the name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.drivers import Driver

ROOT = Path(__file__).parents[2]
SLOW = 1.0
LEAST_SHARE = 0.3

# The library would fail at this name if it asked for it by itself, inside C, as no name server knows it.
WORKER = """
from gevent import monkey
monkey.patch_all()
import socket, sys, time
import gevent
from tests.conformance.drivers import DRIVERS
from tests.greenlets import ProgressMeter

name, address, slow = sys.argv[1], sys.argv[2], float(sys.argv[3])
look_up, asked = socket.getaddrinfo, 0

def getaddrinfo(host, *args, **kwargs):
    global asked
    if host == "store.example":
        asked += 1
        time.sleep(slow)
        host = "127.0.0.1"
    return look_up(host, *args, **kwargs)

def use():
    store = DRIVERS[name].open_messages(address)
    store.ping()
    store.close()

DRIVERS[name].open_messages(address.replace("store.example", "127.0.0.1")).close()  # imports, which do take a while
socket.getaddrinfo = getaddrinfo
pulse = ProgressMeter()
gevent.joinall([gevent.spawn(use)], raise_error=True)
assert asked, "the name was not looked up here"
print(pulse.share())
"""


def test_a_slow_name_server_does_not_block_the_worker(driver: Driver, address: str) -> None:
    if driver.server is None:
        pytest.skip("its store has no name to look up")
    named = address.replace("127.0.0.1", "store.example").replace("localhost", "store.example")
    assert "store.example" in named
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, driver.name, named, str(SLOW)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split()[-1]) > LEAST_SHARE, "nobody else in the worker could run meanwhile"
