# SPDX-License-Identifier: Apache-2.0
"""A worker that waits for messages and never polls: ``python worker.py http://127.0.0.1:8888 demo mail``."""

import json
import sys
import time
import urllib.request
import uuid

WAIT = 20  # seconds that a claim may wait for messages
TERMS = {"ttl": 300, "grace": 60}  # a message that is not deleted within 300 s is given to another worker

url, project, queue = sys.argv[1:4]
headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project, "Content-Type": "application/json"}


def ask(method, path, document=None):
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url + path, body, headers, method=method)
    # The time-out has to be longer than the wait.
    with urllib.request.urlopen(request, timeout=WAIT + 10) as answer:
        text = answer.read()
        return json.loads(text) if text else None, answer.headers


def work(body):
    print("done", json.dumps(body), flush=True)


pause = 1
while True:
    try:
        claim, answered = ask("POST", f"/v2/queues/{queue}/claims?limit=10&wait={WAIT}", TERMS)
        for message in claim["messages"] if claim else []:
            work(message["body"])
            ask("DELETE", message["href"])
        # Only there if the service did not wait, because too many clients do or because it is being restarted.
        time.sleep(int(answered.get("Retry-After", 0)))
        pause = 1
    except OSError as error:  # also an answer such as a 503 while a store is away
        print("again in", pause, "s:", error, file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 30)
