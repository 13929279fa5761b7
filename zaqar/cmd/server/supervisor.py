# SPDX-License-Identifier: Apache-2.0
"""Runs the parts of a server as child processes: restarts parts that die, and ends all together.

:mod:`zaqar.cmd.server.main` makes the parts and the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zaqar.cmd import failures
from zaqar.cmd.signals import end_with_parent
from zaqar.errors import StartupError

DRAIN_SECONDS = 9.5
"""Time for the parts to end after SIGTERM. The supervisor kills a part that needs longer."""

_QUICK_SECONDS = 10.0
_MOST_QUICK_DEATHS = 5
_FIRST_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Part:
    """A child process. ``reload`` is the signal at which it reads its configuration again.

    A part with SIGTERM ends, and is started again with the new configuration.
    """

    name: str
    command: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    reload: signal.Signals = signal.SIGTERM


class Supervisor:
    def __init__(
        self,
        parts: Sequence[Part],
        *,
        env: Mapping[str, str],
        check: Sequence[str] = (),
        drain_file: Path | None = None,
        drain_delay: float = 0.0,
        stop_accepting: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """After SIGTERM the parts serve on for ``drain_delay`` seconds. ``drain_file`` exists meanwhile, so that probes
        of readiness fail and the workers close connections. A second signal ends the delay. ``stop_accepting`` is
        called after the delay, while the parts still run.

        ``check`` is a command that is run before a reload.

        If it ends with a status other than 0, nothing is reloaded. The last line on its standard error is then the
        reason; the lines before are its log.
        """
        self._parts = parts
        self._env = dict(env)
        self._check = tuple(check)
        self._checking: asyncio.Task[None] | None = None
        self._is_reload_wanted = False
        self._processes: dict[Part, asyncio.subprocess.Process] = {}
        self._replaced: set[asyncio.subprocess.Process] = set()
        self._drain_file = drain_file
        self._drain_delay = drain_delay
        self._stop_accepting = stop_accepting
        self._is_told_to_end = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(
        self, started: Callable[[], Coroutine[Any, Any, None]], stopping: Callable[[], None] = lambda: None
    ) -> None:
        """Run until SIGTERM or SIGINT; ``started`` runs beside the parts, ``stopping`` is called before they end.

        Raises StartupError if a part keeps dying, and what ``started`` raises.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_end)
        loop.add_signal_handler(signal.SIGHUP, self._handle_sighup)
        announcing = asyncio.create_task(started())
        keepers = [asyncio.create_task(self._keep_running(part)) for part in self._parts]
        pending = {announcing, asyncio.create_task(self._drain()), *keepers}
        try:
            done: set[asyncio.Task[Any]] = set()
            while done <= {announcing}:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            self._stop.set()
            announcing.cancel()
            stopping()
            await self._end(keepers)
            if self._drain_file is not None:
                self._drain_file.unlink(missing_ok=True)

    def _handle_end(self) -> None:
        (self._is_hurried if self._is_told_to_end.is_set() else self._is_told_to_end).set()

    async def _drain(self) -> None:
        """Return when the parts have to end."""
        await self._is_told_to_end.wait()
        if self._drain_file is None or not self._drain_delay:
            return
        try:
            self._drain_file.touch()
        except OSError as exc:
            say(f"Probes of readiness do not see that the server is about to end: {exc}.")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_hurried.wait(), self._drain_delay)
        if self._stop_accepting is not None:
            await self._stop_accepting()

    def _handle_sighup(self) -> None:
        self._is_reload_wanted = True
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._reload_as_asked())

    async def _reload_as_asked(self) -> None:
        # A SIGHUP during a check may announce a file that was written after the check had read it. So check again.
        while self._is_reload_wanted and not self._is_told_to_end.is_set():
            self._is_reload_wanted = False
            await self._check_and_reload()

    async def _check_and_reload(self) -> None:
        """Reload if the new configuration can be served. Otherwise the parts that restart would not come back."""
        if self._check:
            checking = await asyncio.create_subprocess_exec(
                *self._check, env=self._env, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
            _, said = await checking.communicate()
            *log, reason = said.decode(errors="replace").rstrip().split("\n")
            if not checking.returncode:
                log.append(reason)
            if any(log):
                print(*log, sep="\n", file=sys.stderr, flush=True)
            if checking.returncode:
                reason = reason or f"the check has ended with {describe_status(checking.returncode)}"
                say(f"SIGHUP changes nothing, the configuration and policy in use stay: {reason}")
                return
        if not self._is_told_to_end.is_set():
            self.reload()

    def reload(self) -> None:
        """Make each part read its configuration again."""
        for part, process in self._processes.items():
            _send(process, part.reload)
            if part.reload == signal.SIGTERM and process not in self._replaced:
                # This part is expected to end. A part with another signal reloads without ending, so its end would be a
                # failure.
                self._replaced.add(process)
                asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._kill_late, part, process)

    def _kill_late(self, part: Part, process: asyncio.subprocess.Process) -> None:
        if self._processes.get(part) is process:
            say(f"The {part.name} did not end within {DRAIN_SECONDS:g} s; it is killed.")
            _kill_group(process)

    async def _keep_running(self, part: Part) -> None:
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while not self._stop.is_set():
            began = loop.time()
            process = self._processes[part] = await asyncio.create_subprocess_exec(
                *part.command,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=part.pass_fds,
                start_new_session=True,  # the terminal sends Ctrl-C to the supervisor only, which then ends the parts
                # A part must not outlive the supervisor, or it would keep the port and the database.
                preexec_fn=end_with_parent,
            )
            if self._stop.is_set():
                # The supervisor began to stop while this process was being started, so _end() has not signalled it.
                _send(process, signal.SIGTERM)
            status = await process.wait()
            del self._processes[part]
            # If a master was killed, its workers would go on to serve the port, beside the workers of the next master.
            _kill_group(process)
            if self._stop.is_set():
                return
            if process in self._replaced:
                self._replaced.discard(process)
                continue
            # A part that was killed from outside, for example by the kernel, did not fail to start.
            failed = loop.time() - began < _QUICK_SECONDS and status != -signal.SIGKILL
            quick_deaths = quick_deaths + 1 if failed else 0
            if quick_deaths == _MOST_QUICK_DEATHS:
                raise StartupError(f"The {part.name} keeps ending, at last with {describe_status(status)}; giving up.")
            pause = _FIRST_PAUSE * 2**quick_deaths
            say(f"The {part.name} has ended with {describe_status(status)}; it is started again in {pause:g} s.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for process in self._processes.values():
            _send(process, signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=DRAIN_SECONDS)
        for part, process in self._processes.items():
            say(f"The {part.name} did not end within {DRAIN_SECONDS:g} s; it is killed.")
            _kill_group(process)
        if late:
            await asyncio.wait(late)


def say(sentence: str) -> None:
    """Print a line for the operator. The parts write their own logs."""
    failures.report("zaqar-server", sentence)


def describe_status(status: int) -> str:
    """The exit status of a process, negative for a signal, in words."""
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # The process may have ended at this moment.
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
