# SPDX-License-Identifier: Apache-2.0
"""Prints messages as they are posted to a queue, as in the README. Needs ``pip install websockets``."""

import json
import uuid

from websockets.sync.client import connect

headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "demo"}
request = {"action": "subscription_create", "headers": headers, "body": {"queue_name": "mail"}}

with connect("ws://127.0.0.1:9000/") as connection:
    connection.send(json.dumps(request))
    for frame in map(json.loads, connection):
        if "Message_Type" in frame:
            print("pushed", frame["body"], flush=True)
        else:
            print("status", frame["headers"]["status"], flush=True)
