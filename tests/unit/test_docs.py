# SPDX-License-Identifier: Apache-2.0
"""The documentation fits the code: its commands work, and the files and members that it names exist."""

from __future__ import annotations

import base64
import json
import re
import shlex
import textwrap
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from falcon import testing
from standardwebhooks import WebhookVerificationError

from tests import documented
from zaqar import app, conf
from zaqar.cmd.server import gunicorn_settings
from zaqar.cmd.server.gunicorn_worker import MOST_IDLE_SECONDS
from zaqar.conf import transport
from zaqar.notification import webhook_signatures
from zaqar.schemas.filters import compile_filter
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app
from zaqar.transport.wsgi.event_streams import HEARTBEAT_SECONDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text()
NOTIFICATIONS = (ROOT / "docs" / "notifications.rst").read_text()
SIGNED_URLS = (ROOT / "docs" / "signed_urls.rst").read_text()
TOUR_PAGE = (ROOT / "docs" / "getting_started.rst").read_text()
ENCRYPTION = (ROOT / "docs" / "encryption.rst").read_text()
TOUR = (ROOT / "docs" / "tour_openstacksdk.py").read_text()
PUSH = (ROOT / "docs" / "websocket_push.rst").read_text()
LIVE = (ROOT / "docs" / "live_updates.rst").read_text()
SUBSCRIBE = (ROOT / "docs" / "examples" / "subscribe.py").read_text()
PAGES = sorted(ROOT / page for page in documented.pages())

FILES = re.compile(r"(?<![/\w])(?:zaqar|tests|docs|etc)/[\w./-]*\w\.(?:py|rst|sample|conf|service|ini)\b")
MEMBERS = re.compile(r"\b([A-Z][a-zA-Z]*[a-z])\.([a-z_]\w+)\b")


class Terminal:
    """Runs the curl commands of a page against the application in-process."""

    def __init__(
        self, *, secret_key: str | None = None, message_encryption_key: str | None = None, **options: bool
    ) -> None:
        configuration = conf.load(default_config_files=[])
        configuration.set_override("secret_key", secret_key, "signed_url")
        configuration.set_override("message_encryption_key", message_encryption_key, "transport")
        for name, value in options.items():
            configuration.set_override(name, value)
        parts = app.build(configuration, management=MemoryManagementStore(), messages=MemoryMessageStore())
        self._client = testing.TestClient(make_app(parts))
        self._variables: dict[str, str] = {}
        self._answer = ""

    def run(self, line: str) -> testing.Result | None:
        assignment = re.fullmatch(r"([A-Z])=(.*)", line)
        if assignment:
            self._variables[assignment[1]] = self._expand(shlex.split(assignment[2])[0])
            return None
        command, _, _ = line.partition(" | tee")
        return self._curl(shlex.split(self._expand(re.sub(r"\$\(sed .*\)(?=\"$)", self._href, command)))[1:])

    def _href(self, _match: re.Match[str]) -> str:
        found = re.search(r'.*"href":"([^"]*)"', self._answer)
        assert found is not None
        return found[1]

    def _expand(self, text: str) -> str:
        return re.sub(r"\$([A-Z])", lambda match: self._variables[match[1]], text)

    def _curl(self, arguments: list[str]) -> testing.Result:
        method, body, headers, url = "", None, {}, ""
        rest = iter(arguments)
        for argument in rest:
            if argument == "-X":
                method = next(rest)
            elif argument == "-H":
                name, _, value = next(rest).partition(":")
                headers[name] = value
            elif argument == "-d":
                body = next(rest)
            elif not argument.startswith("-"):
                url = argument
        path, _, query = url.removeprefix("http://127.0.0.1:8888").partition("?")
        method = method or ("GET" if body is None else "POST")
        result = self._client.simulate_request(method, path, query_string=query, headers=headers, body=body)
        self._answer = result.text
        return result


def commands(page: str) -> Iterator[str]:
    """Return the commands of a page, without those that open a stream, because a stream needs a server."""
    for line in page.splitlines():
        text = line.strip().removeprefix("$ ")
        if (text.startswith("curl ") and "text/event-stream" not in text) or re.match(r"[A-Z]=", text):
            yield text


def test_the_curl_commands_of_the_readme_work() -> None:
    terminal = Terminal()
    results = [result for command in commands(README) if (result := terminal.run(command)) is not None]
    assert [result.status_code for result in results] == [201, 201, 200, 201, 204, 200, 201, 201]
    assert [message["body"]["to"] for message in results[2].json["messages"]] == ["ann", "bob"]
    assert [message["body"]["to"] for message in results[3].json["messages"]] == ["ann"]
    assert results[5].json["messages"]["total"] == 1
    assert results[6].json["secret"].startswith("whsec_")
    assert [message["body"]["to"] for message in results[7].json["messages"]] == ["bob"]


def test_the_curl_commands_of_the_tour_work() -> None:
    terminal = Terminal()
    results: list[testing.Result] = []
    for command in commands(TOUR_PAGE):
        if "<the href>" in command:
            command = command.replace("<the href>", results[3].json["messages"][0]["href"])
        if (result := terminal.run(command)) is not None:
            results.append(result)
    assert [result.status_code for result in results] == [201, 201, 200, 201, 204, 200]
    assert results[5].json["messages"]["total"] == 1


def test_the_pool_of_the_page_on_pools_can_be_registered() -> None:
    (command,) = commands((ROOT / "docs" / "pools.rst").read_text().replace("\\\n", " "))
    registered = Terminal(admin_mode=True, pooling=True).run(command.replace("10.0.0.7:6379", "127.0.0.1:9"))
    assert registered is not None and registered.status_code == 400
    # Everything but the store is right: no Redis listens there.
    assert registered.json["description"].startswith("uri: ")


def test_the_queue_of_the_page_on_encryption_can_be_made() -> None:
    terminal = Terminal(message_encryption_key="base64:" + base64.b64encode(bytes(range(32))).decode())
    results = [result for command in commands(ENCRYPTION) if (result := terminal.run(command)) is not None]
    assert [result.status_code for result in results] == [201]


def test_the_readme_has_the_example_with_openstacksdk() -> None:
    code = TOUR.split('"""', 2)[2].strip()
    assert textwrap.indent(code, "   ") in README


@pytest.mark.parametrize("guide", [PUSH, LIVE], ids=["push", "live"])
def test_the_post_of_the_guides_to_browsers_works(guide: str) -> None:
    terminal = Terminal()
    (command,) = commands(guide.replace("\\\n", " "))
    posted = terminal.run(command)
    assert posted is not None and posted.status_code == 201


def test_the_readme_has_the_program_that_receives_notifications() -> None:
    code = SUBSCRIBE.split('"""', 2)[2].strip()
    assert textwrap.indent(code, "   ") in README


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in this language, in order."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", page, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_curl_commands_on_the_page_on_notifications_work() -> None:
    """The commands run in the order of the page, with the ids of earlier answers."""
    terminal = Terminal()
    answers: list[testing.Result] = []
    for command in commands(NOTIFICATIONS):
        if answers:
            command = command.replace("5f1c9a7b0e2d4c6f8a1b3d5e", answers[0].json["subscription_id"])
        if (result := terminal.run(command)) is not None:
            answers.append(result)
    # No notifier runs here, so there is no delivery to send again.
    assert [result.status_code for result in answers] == [201, 201, 204, 200, 200, 404, 200]
    assert [answer.json["secret"][:6] for answer in (answers[0], answers[3])] == ["whsec_"] * 2
    assert answers[4].json["deliveries"] == []


def test_the_curl_commands_on_the_page_on_signed_urls_work() -> None:
    terminal = Terminal(secret_key="k" * 32)
    answers: list[testing.Result] = []
    for command in commands(SIGNED_URLS):
        signature = answers[0].json["signature"] if answers else "36ce..."
        if (result := terminal.run(command.replace("36ce...", signature))) is not None:
            answers.append(result)
    shared, posted, listed, refused = answers
    assert [answer.status_code for answer in answers] == [200, 201, 200, 404]
    shown = re.search(r"\n   (\{\"project.*?\"\})", SIGNED_URLS, re.DOTALL)
    assert shown is not None
    assert shared.json == json.loads(shown[1]) | {"signature": shared.json["signature"]}
    assert listed.json["messages"][0]["href"] == posted.json["resources"][0]
    assert refused.text in SIGNED_URLS


def test_the_code_on_the_page_on_signed_urls_signs() -> None:
    names: dict[str, Any] = {}
    exec(blocks(SIGNED_URLS, "python")[1], names)
    paths, project = ["/v2/queues/alarms/messages"], "9b0c4b8a6e8b4d0f9b1d3f5a7c9e1b2d"
    made = names["signature"]("zaqar-example-key", paths, ["POST"], project, "2030-01-01T00:00:00")
    assert f"``{made}``" in SIGNED_URLS


@pytest.mark.parametrize("block", range(2))
def test_the_code_on_the_page_on_notifications_verifies_a_signature(block: int) -> None:
    names: dict[str, Any] = {}
    exec(blocks(NOTIFICATIONS, "python")[block], names)
    check = names.get("verified") or names["is_genuine"]

    def accepts(headers: Mapping[str, str], body: bytes) -> bool:
        try:
            return bool(check(new, headers, body))
        except WebhookVerificationError:
            return False

    old, new = webhook_signatures.new_secret(), webhook_signatures.new_secret()
    now, body = time.time(), b'{"body": {"to": "ann"}}'

    def signed(at: float, *secrets: str) -> dict[str, str]:
        pairs = [(secret, None if secret == new else now + 60) for secret in secrets]
        signature = webhook_signatures.sign(pairs, "msg_1", int(at), body, now)
        return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at)), "webhook-signature": signature}

    assert accepts(signed(now, new), body)
    assert accepts(signed(now, old, new), body)
    assert not accepts(signed(now, old), body)
    assert not accepts(signed(now, new), body.replace(b"ann", b"bob"))
    assert not accepts(signed(now, new) | {"webhook-id": "msg_2"}, body)
    assert not accepts(signed(now - 3600, new), body)


def test_the_filter_on_the_page_on_notifications_matches_as_described() -> None:
    (text,) = (block for block in blocks(NOTIFICATIONS, "json") if "prefix" in block)
    wants = compile_filter(json.loads(text), field="filter").matches
    wanted = {"to": "ann", "size": 100, "lang": "en"}
    assert wants(wanted)
    assert wants(wanted | {"to": "team-a", "lang": "de", "urgent": True, "meta": {}})
    for other in ({"to": "bob"}, {"size": 0}, {"size": 101}, {"meta": {"spam": None}}, {"lang": "de"}):
        assert not wants(wanted | other)


def test_the_conditions_on_the_page_on_notifications_are_valid() -> None:
    table = NOTIFICATIONS[NOTIFICATIONS.index("list-table:: Conditions") :]
    conditions = [
        text for row in re.findall(r"^   \* - (``.*)$", table, re.MULTILINE) for text in row[2:-2].split("``, ``")
    ]
    assert len(conditions) == 14
    for condition in conditions:
        compile_filter({"member": [json.loads(condition)]}, field="filter")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = [name for name in FILES.findall(page.read_text()) if not (ROOT / name).is_file()]
    assert not missing


@pytest.fixture(scope="module")
def sources_of_class() -> dict[str, list[str]]:
    """The text of each module that has a class of this name."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "zaqar").rglob("*.py"):
        text = path.read_text()
        for name in set(re.findall(r"^class (\w+)", text, re.MULTILINE)):
            found.setdefault(name, []).append(text)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_members_of_classes_that_a_page_names_exist(page: Path, sources_of_class: dict[str, list[str]]) -> None:
    def is_there(owner: str, member: str) -> bool:
        sources = sources_of_class.get(owner, [])
        return not sources or any(re.search(rf"\b{member}\b", source) for source in sources)

    assert [".".join(pair) for pair in MEMBERS.findall(page.read_text()) if not is_there(*pair)] == []


def test_the_sample_proxy_closes_idle_connections_before_the_service() -> None:
    nginx = (ROOT / "etc" / "nginx" / "zaqar.conf").read_text()
    upstream = re.search(r"^upstream zaqar {.*?^}", nginx, flags=re.MULTILINE | re.DOTALL)
    assert upstream is not None
    (proxy_seconds,) = re.findall(r"^ *keepalive_timeout (\d+)s;", upstream[0], flags=re.MULTILINE)
    sample = re.search(r"^keepalive = (\d+)$", (ROOT / "etc" / "gunicorn.conf.py").read_text(), flags=re.MULTILINE)
    assert sample is not None
    assert int(proxy_seconds) < min(gunicorn_settings.keepalive, int(sample[1]))


def test_the_sample_proxy_closes_idle_connections_before_a_server_that_drains() -> None:
    """So no request is sent on a connection that the server closes. A worker looks once a second whether it drains."""
    nginx = (ROOT / "etc" / "nginx" / "zaqar.conf").read_text()
    config = (ROOT / "etc" / "kubernetes" / "configmap.yaml").read_text()
    page = (ROOT / "docs" / "deploying.rst").read_text()
    (proxy_seconds,) = re.findall(r"^    keepalive_timeout (\d)s;", nginx, flags=re.MULTILINE)
    delays = [*re.findall(r"^ *drain_delay = (\d+)$", config + page, flags=re.MULTILINE), MOST_IDLE_SECONDS]
    assert len(delays) == 3
    assert int(proxy_seconds) + 1 < min(map(float, delays))
    assert gunicorn_settings.graceful_timeout > MOST_IDLE_SECONDS


def test_the_sample_proxy_waits_longer_than_the_service() -> None:
    nginx = (ROOT / "etc" / "nginx" / "zaqar.conf").read_text()
    locations = re.findall(r"^    location (.*?) {$(.*?)^    }$", nginx, flags=re.MULTILINE | re.DOTALL)
    seconds = {path: re.findall(r"^ *proxy_read_timeout (\d+)s;", text, flags=re.MULTILINE) for path, text in locations}
    waits = [*seconds.pop("/"), *seconds.pop(r"~ ^/v2/(queues|topics)/[^/]+/messages$")]
    assert list(seconds) == ["= /websocket"]
    assert len(waits) == 2
    (most,) = [option.type.max for option in transport.TRANSPORT if option.name == "max_wait"]
    assert all(int(each) >= 2 * max(most, HEARTBEAT_SECONDS) for each in waits)


CONTRIBUTOR = sorted((ROOT / "docs" / "contributor").glob("*.rst"))
FILE = re.compile(r"(?<![\w/])(?!build/)[\w./]+\.(?:py|lua|sql)\b")
NAME = re.compile(r"``([A-Za-z_][\w.]*?)\.?(?:\(\))?``")
NOT_OURS = {"mongosh", "message_touch"}
"""A program, and the operation that an example adds."""


@cache
def all_files() -> tuple[Path, ...]:
    found = (path for folder in ("zaqar", "tests", "docs", "etc") for path in (ROOT / folder).rglob("*.*"))
    return tuple(path for path in found if documented.WRITTEN_BY_SPHINX not in path.relative_to(ROOT).parts)


@cache
def all_words() -> frozenset[str]:
    """The words of the sources, and the parts of the names of all files."""
    sources = [path for path in all_files() if path.suffix in {".py", ".lua", ".sql", ".sample"}]
    texts = [path.read_text() for path in [*sources, ROOT / "setup.cfg", ROOT / "tox.ini"]]
    names = [" ".join(path.relative_to(ROOT).parts) for path in all_files()]
    return frozenset(re.findall(r"\w+", "\n".join([*texts, *names]))) | NOT_OURS


@pytest.mark.parametrize("page", CONTRIBUTOR, ids=lambda page: page.name)
def test_files_and_names_on_the_pages_for_contributors_are_in_the_code(page: Path) -> None:
    text = page.read_text()
    ends = {f"/{path.relative_to(ROOT)}" for path in all_files()}
    files = {name for name in FILE.findall(text) if not any(end.endswith(f"/{name.strip('./')}") for end in ends)}
    names = {name for name in NAME.findall(text) if not all_words().issuperset(name.split("."))}
    assert files | names == set()
