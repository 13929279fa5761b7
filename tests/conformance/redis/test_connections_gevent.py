# SPDX-License-Identifier: Apache-2.0
"""In a process that gevent has patched, a killed greenlet releases its slot in the connection pool."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import servers

WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import redis
from zaqar.errors import StoreUnavailable
from zaqar.model import Draft, Queue
from zaqar.storage.redis.store import RedisMessageStore

uri, host, port = sys.argv[1:]
store = RedisMessageStore.from_settings({"uri": uri, "connections": 2})
queue = Queue("c" * 24, "p", "q")
store.queues.open(queue=queue, now=1000.0)
observer = redis.Redis(host=host, port=int(port))

def post(number):
    store.messages.post(queue=queue, drafts=[Draft(b"%d" % number, 60)], client_id="c", now=1000.0)

for _ in range(3):
    observer.client_pause(200, all=False)
    posts = [gevent.spawn(post, number) for number in range(8)]
    gevent.sleep(0.05)
    # Two of them wait for an answer and the others for a connection.
    for each in posts[::2]:
        each.kill()
    gevent.joinall(posts, timeout=20, raise_error=True)
    assert all(each.dead for each in posts)

client = store._core.client
pools = list(client._router._pools.values()) if client.is_cluster else [client._router._pool]
for pool in pools:
    assert pool._slots == len(pool._idle) <= 2, (pool._slots, pool._idle)
    assert not pool._waiters
gevent.joinall([gevent.spawn(post, number) for number in range(20)], timeout=20, raise_error=True)
stored = store.messages.list_after(queue=queue, after=0, limit=100, now=1000.0)
assert len(stored) >= 20 + 3 * 4, len(stored)
store.close()
"""


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
def test_greenlets_that_are_killed_release_their_slots(kind: str) -> None:
    from zaqar.storage.redis.client import uri

    server = servers.shared(kind)
    host, port = uri.parse(server.uri).hosts[0]
    command = [sys.executable, "-c", WORKER, server.uri, host, str(port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
