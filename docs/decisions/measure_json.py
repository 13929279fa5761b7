# SPDX-License-Identifier: Apache-2.0
"""CPU time of reading one POST body of about 1 KiB in several ways; the figures of decision 0003.

Run it with ``python docs/decisions/measure_json.py`` where zaqar is installed; orjson is measured where it is present.
"""

import importlib
import json
import time
from collections.abc import Callable

import msgspec

from zaqar.schemas import strict_json
from zaqar.schemas.messages import WirePost, parse_post

ROUNDS, CALLS = 40, 1_000


def make_post(size: int) -> bytes:
    body = {"event": "backup", "id": 4711, "ok": True, "tags": ["a", "b", "c"], "load": 0.25}
    body["text"] = "x" * (size - len(json.dumps({"messages": [{"ttl": 300, "body": {**body, "text": ""}}]})))
    return json.dumps({"messages": [{"ttl": 300, "body": body}]}).encode()


def best_times(ways: dict[str, Callable[[bytes], object]], raw: bytes) -> dict[str, float]:
    """Microseconds of CPU for one call of each way: the best of rounds that take turns, as other load only adds."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, read in ways.items():
            started = time.process_time()
            for _ in range(CALLS):
                read(raw)
            best[name] = min(best[name], time.process_time() - started)
    return {name: seconds / CALLS * 1e6 for name, seconds in best.items()}


def main() -> None:
    decode_post = msgspec.json.Decoder(WirePost).decode
    ways: dict[str, Callable[[bytes], object]] = {
        "json.loads": json.loads,
        "msgspec to plain objects": msgspec.json.Decoder().decode,
        "msgspec to WirePost, bodies as Raw": decode_post,
        "strict_json.decode": strict_json.decode,
        "parse_post: strict_json, then msgspec": parse_post,
    }
    try:
        ways["orjson.loads"] = importlib.import_module("orjson").loads
    except ModuleNotFoundError:
        print("orjson is not installed")
    for size in (1024, 65_536):
        raw = make_post(size)
        for name, microseconds in best_times(ways, raw).items():
            print(f"{len(raw):6} bytes  {microseconds:8.2f} us  {name}")


if __name__ == "__main__":
    main()
