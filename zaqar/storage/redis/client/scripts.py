# SPDX-License-Identifier: Apache-2.0
"""The Lua scripts: one for each operation, assembled from its file and the pieces that the file includes.

A line ``-- include: NAME`` stands for the text of ``scripts/pieces/NAME.lua``. ``tox -e genlua`` writes the assembled
scripts into a folder, and the documentation shows them (contributor/lua).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import textwrap
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_FOLDER = files("zaqar.storage.redis") / "scripts"
_INCLUDE = re.compile(r"^( *)-- include: ([a-z_]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script as the server has it: its whole text, and the digest by which it is called.

    ``idempotent`` says that it may be sent a second time if the first answer was lost: it only reads, or to run it
    again changes nothing. ``durable`` says that its answer waits for replicas, if the store is set up so. A script that
    only does what is due anyway does not wait, because the next one would do the same.
    """

    name: str
    source: bytes
    sha: bytes
    idempotent: bool
    durable: bool


def load(name: str, *, idempotent: bool = False, durable: bool = True) -> Script:
    """The script of an operation, such as ``claims/renew``."""
    source = assemble(name).encode()
    # The name of a script on a server is its SHA-1; nothing is secured by it.
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(name, source, sha, idempotent, durable)


def assemble(name: str) -> str:
    """The text of a script with all pieces in place, including pieces of pieces. Comments show where each begins."""
    text = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: _piece(line[1], line[2]), text)


def _piece(indent: str, name: str) -> str:
    """A piece between two comments that name it, indented like the line that includes it."""
    text = assemble(f"pieces/{name}").rstrip("\n")
    return textwrap.indent(f"-- begin of {name}\n{text}\n-- end of {name}", indent)


def names() -> list[str]:
    """The names of all scripts, without the pieces, in the order of the alphabet."""
    return sorted(
        f"{folder.name}/{script.name.removesuffix('.lua')}"
        for folder in _FOLDER.iterdir()
        if folder.is_dir() and folder.name != "pieces"
        for script in folder.iterdir()
    )


def main(arguments: list[str] | None = None) -> None:
    """Write every assembled script into a folder, for a reader, ``redis-cli --eval`` or the debugger of Redis."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    for name in names():
        target = folder / f"{name}.lua"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(assemble(name), encoding="utf-8")


if __name__ == "__main__":
    main()
