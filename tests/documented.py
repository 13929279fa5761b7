# SPDX-License-Identifier: Apache-2.0
"""The code blocks of README.rst and of the pages in docs, for the tests that run and check them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
WRITTEN_BY_SPHINX = "modules"

_DIRECTIVE = re.compile(r"(\s*)\.\. (?:code-block|code|sourcecode):: *(\S*)$")
_SHELLS = ("console", "sh", "bash", "shell")
_BEGINS_A_COMMAND = re.compile(
    r"\$ |[A-Z]+=|(?:export|curl|pip|tox|pytest|openssl|openstack|sqlite3|granian|gunicorn|uwsgi|systemctl|kubectl"
    r"|redis-cli|psql|mongosh|git|sh|bash|docker|podman|apt-get|python[\d.]*|zaqar-[a-z-]+)(?: |$)"
)


@dataclass(frozen=True)
class Block:
    """A block of a page. ``language`` is empty for a literal block after ``::``."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_shell(self) -> bool:
        """Whether it has commands. A literal block has if its first line looks like one."""
        return self.language in _SHELLS or (not self.language and bool(_BEGINS_A_COMMAND.match(self.text)))

    def commands(self) -> list[str]:
        """The commands of a shell block, each with its continuation lines, and without prompts, output and comments."""
        lines = self.text.splitlines()
        has_prompts = any(line.startswith("$ ") for line in lines)
        found: list[str] = []
        is_open = False
        for line in lines:
            if is_open:
                found[-1] = found[-1].removesuffix("\\").rstrip() + " " + line.strip()
            elif has_prompts and line.startswith("$ "):
                found.append(re.sub(r"\s+# .*$", "", line[2:]))
            elif not has_prompts and line.strip() and not line.startswith("#"):
                found.append(line)
            else:
                continue
            is_open = found[-1].endswith("\\") or found[-1].count("'") % 2 == 1
        return found


@cache
def pages() -> dict[str, str]:
    """The text of README.rst and of each page in docs that people write, by path."""
    folder = ROOT / "docs"
    paths = [
        path for path in sorted(folder.rglob("*.rst")) if not {"newsfragments", WRITTEN_BY_SPHINX} & set(path.parts)
    ]
    return {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.rst", *paths]}


def blocks_of(page: str) -> Iterator[Block]:
    """The code blocks and literal blocks of a page, in order."""
    lines = pages()[page].splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        directive = _DIRECTIVE.match(line)
        if not directive and not (line.rstrip().endswith("::") and not line.lstrip().startswith("..")):
            continue
        end = number
        while end < len(lines) and not lines[end].strip():
            end += 1
        # In an item of a list the text that follows the block is indented too, but less than the block.
        indent = _indent_of(lines[end]) if end < len(lines) else 0
        while end < len(lines) and (not lines[end].strip() or _indent_of(lines[end]) >= indent):
            end += 1
        content = textwrap.dedent("\n".join(lines[number:end])).strip("\n")
        content = re.sub(r"\A(?::\w+:.*\n)+\n*", "", content)
        yield Block(page, number, directive[2] if directive else "", content)
        number = end


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def commands_of(page: str) -> list[str]:
    """The commands of all shell blocks of a page, in order."""
    return [command for block in blocks_of(page) if block.is_shell for command in block.commands()]
