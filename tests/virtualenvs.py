# SPDX-License-Identifier: Apache-2.0
"""Virtual environments of their own for programs whose dependencies do not go together with those of the tests.

The first test that asks for one makes it, with the Python and the pip configuration of the test run; later runs find
it in the user's cache. Several processes may ask at once: one makes it, the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.servers import ServerMissing

INSTALL_SECONDS = 280.0


def cache_folder() -> Path:
    """``zaqar-tests`` in the user's cache (``XDG_CACHE_HOME`` or ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home).expanduser() / "zaqar-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(*parts: str) -> str:
    """A short name for what depends on all of these and on this Python."""
    python = (sys.version, sys.base_prefix)
    return hashlib.sha256("\0".join((*python, *parts)).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # flock(2): the lock ends with the process that holds it, however that ends.
    with folder.with_name(f"{folder.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, filled by ``make`` unless an earlier call, here or in another process, has done so.

    A ``make`` that was interrupted leaves no ``complete`` behind, so the next call starts afresh.
    """
    complete = folder / "complete"
    if not complete.exists():
        with _locked(folder):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                complete.touch()
    return folder


@functools.cache
def _attempt(name: str, requirements: tuple[str, ...]) -> Path | str:
    """The folder, or why there is none: a run without a network shall not wait for pip in each of its tests."""

    def install(folder: Path) -> None:
        # No uv: it does not read pip's configuration, which says where packages come from.
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        for arguments in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements],
        ):
            subprocess.run(
                arguments,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=INSTALL_SECONDS,
                text=True,
            )

    try:
        return made_once(cache_folder() / f"{name}-{key_of(*requirements)}", install)
    except subprocess.CalledProcessError as failed:
        return f"cannot install {' '.join(requirements)}: {failed.stdout[-2000:]}"
    except subprocess.TimeoutExpired:
        return f"cannot install {' '.join(requirements)} within {INSTALL_SECONDS:.0f} s"


def virtualenv(name: str, *requirements: str) -> Path:
    """The folder of a virtual environment with these packages; its programs are in ``bin``.

    Raises ServerMissing if they cannot be installed.
    """
    found = _attempt(name, requirements)
    if isinstance(found, str):
        raise ServerMissing(found)
    return found
