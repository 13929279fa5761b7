# SPDX-License-Identifier: Apache-2.0
"""Virtual environments for programs whose dependencies conflict with those of the tests.

The first test that asks for one makes it, with the Python and the pip configuration of the test run; later runs find
it in the user's cache. Several processes may ask at once: one makes it, the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ServerMissing, end_with_parent

INSTALL_SECONDS = 280.0


def cache_folder() -> Path:
    """``zaqar-tests`` in the user's cache (``XDG_CACHE_HOME`` or ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home).expanduser() / "zaqar-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(*parts: str) -> str:
    """A short name that depends on all of these texts and on this Python."""
    python = (sys.version, sys.base_prefix)
    return hashlib.sha256("\0".join((*python, *parts)).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # flock(2): the lock ends with the process that holds it, however that ends.
    with folder.with_name(f"{folder.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which ``make`` fills unless an earlier call, here or in another process, has done so.

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


def _stay_behind() -> None:
    # Tests run at the same time. In the child between fork and exec.
    os.nice(10)
    end_with_parent()


def _install(folder: Path, requirements: tuple[str, ...]) -> None:
    # No uv: it does not read pip's configuration, which says where packages come from.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements],
    ):
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=INSTALL_SECONDS,
            text=True,
            preexec_fn=_stay_behind,
        )


@dataclass(frozen=True)
class Virtualenv:
    """A virtual environment with these packages. Its name says what it is for."""

    name: str
    requirements: tuple[str, ...]

    def begin(self) -> None:
        """Start to make it in the background, unless that was started. A caller that asks for the folder waits."""
        if self not in _begun:
            _begun[self] = _pool.submit(self._make)

    def folder(self) -> Path:
        """The folder; its programs are in ``bin``. Raises ServerMissing if the packages cannot be installed."""
        self.begin()
        return _begun[self].result()

    def _make(self) -> Path:
        # The outcome is kept: without a network, not every test of a run should wait for pip.
        wanted = " ".join(self.requirements)
        try:
            return made_once(
                cache_folder() / f"{self.name}-{key_of(*self.requirements)}",
                lambda folder: _install(folder, self.requirements),
            )
        except subprocess.CalledProcessError as failed:
            raise ServerMissing(f"cannot install {wanted}: {failed.stdout[-2000:]}") from failed
        except subprocess.TimeoutExpired as slow:
            raise ServerMissing(f"cannot install {wanted} within {INSTALL_SECONDS:.0f} s") from slow


_begun: dict[Virtualenv, Future[Path]] = {}
_pool = ThreadPoolExecutor(2, thread_name_prefix="virtualenvs")

KEYSTONE = Virtualenv("keystone", ("keystone==30.0.0", "waitress>=3.0"))
TEMPEST = Virtualenv("tempest", ("tempest==47.0.0", "zaqar-tempest-plugin==4.3.0"))
REFERENCE = Virtualenv("reference", ("zaqar==23.0.1", "redis>=5,<9", "setuptools<81"))
HEAT_AND_AODH = Virtualenv("heat-and-aodh", ("openstack-heat==27.0.1", "aodh==23.0.0", "python-zaqarclient>=4.7"))
