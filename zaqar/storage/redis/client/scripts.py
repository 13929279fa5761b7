# SPDX-License-Identifier: Apache-2.0
"""The Lua scripts: one for each operation, with the pieces in place of the lines that name them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_INCLUDE = re.compile(r"^ *-- include: ([a-z_]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script as the server has it: its whole text and the digest it is called by.

    ``again`` says that it may be sent a second time when the first answer was lost: it only reads, or repeats itself
    without harm. ``writes`` says that an answer has to wait for replicas, where that is asked for; what only brings to
    its place what is due anyway does not.
    """

    name: str
    source: bytes
    sha: bytes
    again: bool
    writes: bool


def load(name: str, *, again: bool = False, writes: bool = True) -> Script:
    source = _read(name).encode()
    # The name of a script on a server is its SHA-1; nothing is secured by it.
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(name, source, sha, again, writes)


def _read(name: str) -> str:
    """The text, pieces within pieces included."""
    text = (files("zaqar.storage.redis") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: _read(line[1]), text)
