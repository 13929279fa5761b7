# SPDX-License-Identifier: Apache-2.0
"""The pages for operators quote texts and options that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.documented import ROOT, pages
from tests.unit.test_docs_blocks import known_options

TROUBLESHOOTING = "docs/troubleshooting.rst"
PAGES = ("sizing", "high_availability", "security", "tuning", "troubleshooting")
OF_OTHERS = (
    "Address already in use",
    "worker_connections are not enough",
    "Too many open files",
    "[drivers] message_store:",
)
"""Texts that do not come from a source file of the service."""

OF_OTHER_PROGRAMS = {
    "limit_conn",
    "limit_req",
    "non_idempotent",
    "pg_database_size",
    "pg_isready",
    "pg_replication_slots",
    "pg_stat_activity",
    "preload_app",
    "rotate_secret",
    "synchronous_commit",
    "tls_ca",
    "used_memory",
    "worker_connections",
    "worker_rlimit_nofile",
}
"""Names with an underscore that are no options of the service."""

A_VALUE = re.compile(r"\b(?:[A-Z]{2,}(?<!WAL)|N)\b")
"""What stands for a value in a quoted text."""


@cache
def texts_of_the_service() -> str:
    """Each text in the source, in lines of their own. A value that is put into a text is a line break."""
    found = []
    for path in (ROOT / "zaqar").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(each.value if isinstance(each, ast.Constant) else "\n" for each in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[\d.]*[dsgf]", "\n", node.value))
    return "\n".join(found)


def quoted_texts() -> Iterator[str]:
    """The texts in the first column of the tables whose heading says that the answer or the log has them."""
    for table in pages()[TROUBLESHOOTING].split(".. list-table::")[1:]:
        if "* - the answer or the log says" in table:
            for cell in re.findall(r"^   \* - (.*)$", table, re.MULTILINE):
                if "at the proxy" not in cell:
                    yield from (text for text in re.findall(r"``(.*?)``", cell) if text not in OF_OTHERS)


def test_quoted_texts_are_texts_of_the_service() -> None:
    quoted = [text for text in quoted_texts() if " " in text]
    pieces = [(text, piece.strip()) for text in quoted for piece in A_VALUE.split(text)]
    assert [text for text, piece in pieces if piece not in texts_of_the_service()] == []
    assert len(quoted) > 30


def test_options_exist() -> None:
    known = known_options()
    names = {name for options in known.values() for name in options} | OF_OTHER_PROGRAMS
    count = 0
    for page in PAGES:
        text = pages()[f"docs/{page}.rst"]
        for group, name in re.findall(r"``\[([\w:+]+)\] (\w+)", text):
            assert name in known[group], (page, group, name)
            count += 1
        for name in re.findall(r"``([a-z]+(?:_[a-z]+)+)(?: = \S+)?``", text):
            assert name in names, (page, name)
            count += 1
    assert count > 100
