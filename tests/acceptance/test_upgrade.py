# SPDX-License-Identifier: Apache-2.0
"""``python -m zaqar.upgrade`` copies from a real zaqar 23.0.1, as published, into this service.

The old service runs in its own virtual environment, on a Redis of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, Server, running, wait_until
from tests.servers import Redis, ServerMissing, end_with_parent, free_port
from tests.virtualenvs import REFERENCE
from zaqar.conf import opts
from zaqar.upgrade.progress import OtherServices, Progress

ROOT = Path(__file__).parents[2]
VIRTUALENVS = (REFERENCE,)

_CONFIGURATION = """\
[DEFAULT]
auth_strategy =
unreliable = true
[drivers]
transport = wsgi
message_store = redis
management_store = redis
[drivers:message_store:redis]
uri = {uri}
[drivers:management_store:redis]
uri = {uri}
[drivers:transport:wsgi]
bind = 127.0.0.1
port = {port}
"""


class Api:
    """Requests of one client of one project."""

    def __init__(self, url: str, project: str) -> None:
        self.url, self.project = url, project

    def request(self, method: str, path: str, body: Any = None) -> Any:
        headers = {
            "Client-ID": "3381af92-2b9e-11e3-b191-71861300734c",
            "X-Project-ID": self.project,
            "Content-Type": "application/json",
        }
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v2/{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read()
        return json.loads(text) if text else None

    def messages(self, queue: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        marker = ""
        while page := self.request("GET", f"queues/{queue}/messages?echo=true&include_claimed=true{marker}")[
            "messages"
        ]:
            found += page
            marker = f"&marker={page[-1]['id']}"
        return found


@pytest.fixture(scope="module")
def old_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        programs = REFERENCE.folder() / "bin"
    except ServerMissing as missing:
        servers.refuse(str(missing))
    redis = servers.own(Redis)
    folder, port = tmp_path_factory.mktemp("reference"), free_port()
    configuration = folder / "zaqar.conf"
    configuration.write_text(_CONFIGURATION.format(uri=redis.uri, port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "zaqar-server", "--config-file", configuration],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()[-5000:]
        yield url
    finally:
        process.kill()
        process.wait()
        redis.stop()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/v2/queues", timeout=5).close()
    except urllib.error.HTTPError:
        # It wants a Client-ID.
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("new")
    configuration = folder / "zaqar.conf"
    configuration.write_text("[notification]\nwebhook_allowed_networks = 192.0.2.0/24\n")
    options = ("--workers", "1", "--config-file", str(configuration))
    with running(folder / "state", options=options, command=HTTP_COMMAND) as server:
        yield server


@pytest.fixture
def old(old_url: str) -> Api:
    return Api(old_url, uuid.uuid4().hex)


@pytest.fixture
def new(new_server: Server, old: Api) -> Api:
    return Api(new_server.url, old.project)


def options_of_the_reference() -> Iterator[tuple[str, str, Any]]:
    """Group, name and default of each option of zaqar 23.0.1, as its own generator lists them."""
    program = REFERENCE.folder() / "bin" / "oslo-config-generator"
    done = subprocess.run(
        [program, "--namespace", "zaqar", "--format", "json"], capture_output=True, timeout=120, check=True
    )
    for group, content in json.loads(done.stdout)["options"].items():
        for option in content["opts"]:
            yield group, option.get("dest") or option["name"].replace("-", "_"), option["default"]


def test_the_page_on_the_upgrade_names_each_option_that_is_not_the_same() -> None:
    page = " ".join((ROOT / "docs" / "upgrade_from_zaqar_23.rst").read_text().split())
    ours = {(group or "DEFAULT", option.dest): option for group, options in opts.list_opts() for option in options}
    unknown, other = [], []
    for group, name, default in options_of_the_reference():
        if (group, name) not in ours:
            unknown.append((group, name))
        elif ours[group, name].default != default:
            other.append((group, name))
    assert [name for group, name in [*unknown, *other] if f"{name}``" not in page] == []
    assert {group for group, _ in unknown} == {"DEFAULT", "drivers:message_store:swift"}


def upgrade(old: Api, new: Api, progress: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "zaqar.upgrade", old.url, new.url, "--project", old.project)
    return subprocess.run(
        [*command, "--progress", str(progress), *options], capture_output=True, text=True, timeout=120, check=False
    )


BODIES: list[Any] = [{"n": n, "text": "é\n"} for n in range(45)]
BODIES += [None, [], 1.5, 12345678901234567, "text", {"deep": {"er": [True, None]}}]


def test_queues_messages_and_subscriptions_of_a_zaqar_23_are_copied(old: Api, new: Api, tmp_path: Path) -> None:
    settings = {"_default_message_ttl": 600, "_max_claim_count": 3, "_dead_letter_queue": "dead", "owner": "web"}
    old.request("PUT", "queues/mail", settings)
    for start in range(0, len(BODIES), 10):
        old.request(
            "POST",
            "queues/mail/messages",
            {"messages": [{"body": body, "ttl": 900} for body in BODIES[start : start + 10]]},
        )
    old.request("PUT", "queues/empty", {})
    wanted = {"subscriber": "http://192.0.2.1/hook", "ttl": 3600, "options": {"post_data": "x"}}
    old.request("POST", "queues/mail/subscriptions", wanted)
    begun = time.monotonic()

    dry = upgrade(old, new, tmp_path / "progress.db", "--dry-run")
    assert f"mail: {len(BODIES)} messages read, {len(BODIES)} to copy" in dry.stdout
    assert new.request("GET", "queues")["queues"] == []

    done = upgrade(old, new, tmp_path / "progress.db")
    assert done.returncode == 0, done
    # Its Redis store answers each listing that includes claimed messages with 503.
    assert "The source does not list claimed messages" in done.stderr.splitlines()[-1]
    assert done.stdout.splitlines()[-1] == f"2 queues, {len(BODIES)} messages copied: complete"
    assert [queue["name"] for queue in new.request("GET", "queues")["queues"]] == ["empty", "mail"]
    metadata = new.request("GET", "queues/mail")
    assert {name: metadata[name] for name in settings} == settings
    copies = new.messages("mail")
    assert [message["body"] for message in copies] == BODIES
    passed = time.monotonic() - begun
    # Ages are whole seconds, of which each service rounds its own.
    assert all(900 - passed - 2 <= message["ttl"] <= 900 for message in copies)
    (subscription,) = new.request("GET", "queues/mail/subscriptions")["subscriptions"]
    assert {name: subscription[name] for name in ("subscriber", "options")} == {
        name: wanted[name] for name in ("subscriber", "options")
    }
    assert 3600 - passed - 2 <= subscription["ttl"] <= 3600


def test_claimed_messages_of_a_zaqar_23_follow_in_a_later_run(old: Api, new: Api, tmp_path: Path) -> None:
    """Its Redis store cannot list claimed messages: the first run names them, the second copies them."""
    old.request("POST", "queues/mail/messages", {"messages": [{"body": n, "ttl": 900} for n in range(5)]})
    claimed = old.request("POST", "queues/mail/claims?limit=2", {"ttl": 300, "grace": 60})
    first = upgrade(old, new, tmp_path / "progress.db")
    assert first.returncode == 1
    assert "mail: 2 claimed messages are left; run again when their claims are over" in first.stderr
    assert [message["body"] for message in new.messages("mail")] == [2, 3, 4]

    claim = claimed["messages"][0]["href"].partition("claim_id=")[2]
    old.request("DELETE", f"queues/mail/claims/{claim}")
    second = upgrade(old, new, tmp_path / "progress.db")
    assert second.returncode == 0, second
    assert [message["body"] for message in new.messages("mail")] == [2, 3, 4, 0, 1]


def test_a_copy_that_is_killed_is_continued(old: Api, new: Api, tmp_path: Path) -> None:
    count = 400
    for start in range(0, count, 20):
        old.request(
            "POST", "queues/mail/messages", {"messages": [{"body": n, "ttl": 900} for n in range(start, start + 20)]}
        )
    command = (sys.executable, "-m", "zaqar.upgrade", old.url, new.url, "--project", old.project)
    for most in (60, 160, 260):
        process = subprocess.Popen([*command, "--progress", str(tmp_path / "progress.db")], stdout=subprocess.DEVNULL)
        wait_until(lambda most=most: process.poll() is not None or copied(new) >= most, every=0.005)  # noqa: B023
        process.kill()
        process.wait()
    assert upgrade(old, new, tmp_path / "progress.db").returncode == 0
    assert [message["body"] for message in new.messages("mail")] == list(range(count))


def copied(new: Api) -> int:
    return int(new.request("GET", "queues/mail/stats")["messages"]["total"])


def test_a_progress_file_belongs_to_two_services(tmp_path: Path) -> None:
    path = tmp_path / "progress.db"
    first = Progress(path, source="http://a", target="http://b")
    first.close()
    again = Progress(path, source="http://a", target="http://b")
    assert again.client_id == first.client_id
    again.close()
    with pytest.raises(OtherServices, match="another file"):
        Progress(path, source="http://a", target="http://c")
