# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: its commands work, and what it names is there."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from falcon import testing

from zaqar import app, conf
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text()
TOUR = (ROOT / "docs" / "tour_openstacksdk.py").read_text()
PAGES = sorted(
    path for path in [ROOT / "README.rst", *(ROOT / "docs").rglob("*.rst")] if "newsfragments" not in path.parts
)

FILES = re.compile(r"\b(?:zaqar|tests|docs|etc)/[\w./-]*\w\.(?:py|rst|sample|conf|service|ini)\b")
MEMBERS = re.compile(r"\b([A-Z][a-zA-Z]*[a-z])\.([a-z_]\w+)\b")


class Terminal:
    """Runs the curl commands of a page against the application in-process."""

    def __init__(self) -> None:
        parts = app.build(
            conf.load(default_config_files=[]), management=MemoryManagementStore(), messages=MemoryMessageStore()
        )
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
    for line in page.splitlines():
        text = line.strip().removeprefix("$ ")
        if text.startswith("curl ") or re.match(r"[A-Z]=", text):
            yield text


def test_the_tour_with_curl_works() -> None:
    terminal = Terminal()
    results = [result for command in commands(README) if (result := terminal.run(command)) is not None]
    assert [result.status_code for result in results] == [201, 201, 200, 201, 204, 200]
    assert [message["body"]["to"] for message in results[2].json["messages"]] == ["ann", "bob"]
    assert [message["body"]["to"] for message in results[3].json["messages"]] == ["ann"]
    assert results[5].json["messages"]["total"] == 1


def test_the_readme_has_the_tour_with_openstacksdk() -> None:
    code = TOUR.split('"""', 2)[2].strip()
    assert textwrap.indent(code, "   ") in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    missing = [name for name in FILES.findall(page.read_text()) if not (ROOT / name).is_file()]
    assert not missing


SOURCES = [path.read_text() for path in sorted((ROOT / "zaqar").rglob("*.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_members_of_classes_that_are_named_are_there(page: Path) -> None:
    def is_there(owner: str, member: str) -> bool:
        definition = re.compile(rf"^class {owner}\b", re.MULTILINE)
        sources = [source for source in SOURCES if definition.search(source)]
        return not sources or any(re.search(rf"\b{member}\b", source) for source in sources)

    assert [".".join(pair) for pair in MEMBERS.findall(page.read_text()) if not is_there(*pair)] == []
