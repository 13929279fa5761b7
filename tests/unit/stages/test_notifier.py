# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import select
from pathlib import Path

from tests.unit.workers import CALLER, QUEUE_NAME
from zaqar import conf as configuration
from zaqar import entry_points
from zaqar.ipc.wakeup_socket import open_wakeup_socket
from zaqar.model import Queue
from zaqar.stages.operations import MESSAGES
from zaqar.stages.published.adapters import make_stage


def test_notifiers_are_woken_after_a_post_to_a_queue_with_subscribers(tmp_path: Path) -> None:
    conf = configuration.load([], default_config_files=[])
    conf.set_override("state_dir", str(tmp_path))
    (name,) = conf.storage.message_pipeline
    plugin = entry_points.load("zaqar.storage.stages", name)
    stage = make_stage("message_pipeline", name, plugin, resource=MESSAGES, conf=conf, clock=lambda: 0.0, keywords={})
    listener = open_wakeup_socket(configuration.notifiers_dir(conf))
    assert listener is not None
    for notify in (False, True):
        queue = Queue("0" * 24, QUEUE_NAME.project, QUEUE_NAME.name, notify=notify)
        stage.after_post(CALLER, queue, ["1"])
        assert bool(select.select([listener], [], [], 0)[0]) == notify
    listener.close()
