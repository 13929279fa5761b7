# SPDX-License-Identifier: Apache-2.0
"""The supervisor with real child processes: a few lines of Python each, which log the signals they get in a file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from zaqar.cmd.server import supervisor
from zaqar.cmd.server.supervisor import Part, Supervisor
from zaqar.errors import StartupError

PATIENCE = 30.0

SERVE = """
import os, signal, sys, time
def say(what):
    with open(sys.argv[1], "a") as file: file.write(f"{what} {os.getpid()}\\n")
def end(number, frame):
    say(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda *_: say("SIGHUP"))
say("started")
while True: time.sleep(60)
"""
DEAF = SERVE.replace("sys.exit(0)", "pass")
DIE = "import sys; sys.exit(7)"


class Journal:
    """The entries that the children wrote, and the parts that write there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def part(self, source: str = SERVE, *, reload: signal.Signals = signal.SIGTERM) -> Part:
        return Part("part", (sys.executable, "-c", source, str(self._path)), reload=reload)

    def entries(self) -> list[tuple[str, int]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [(what, int(pid)) for what, pid in (line.split() for line in lines)]

    def words(self) -> list[str]:
        return [what for what, _ in self.entries()]

    async def wait_for(self, *words: str) -> list[int]:
        """Wait until the entries are exactly these words. Returns the pids of the entries."""
        deadline = time.monotonic() + PATIENCE
        while self.words() != list(words):
            assert time.monotonic() < deadline, self.words()
            await asyncio.sleep(0.02)
        return [pid for _, pid in self.entries()]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid: int) -> bool:
    """Whether the process runs, and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def nothing() -> None:
    return


def run(
    *parts: Part,
    script: Callable[[], Awaitable[object]],
    started: Callable[..., object] = nothing,
    check: tuple[str, ...] = (),
) -> None:
    """Supervise the parts while the script runs, which ends with a signal to this process."""

    async def both() -> None:
        await asyncio.gather(Supervisor(parts, env=os.environ, check=check).run(started), script())  # type: ignore[arg-type]

    asyncio.run(both())


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_part(journal: Journal, number: signal.Signals) -> None:
    async def script() -> None:
        await journal.wait_for("started")
        send(number)

    run(journal.part(), script=script)
    (_, pid), last = journal.entries()
    assert last == ("SIGTERM", pid)
    assert not is_alive(pid)


def test_a_part_that_is_killed_is_started_again(journal: Journal, capfd: pytest.CaptureFixture[str]) -> None:
    async def script() -> None:
        (pid,) = await journal.wait_for("started")
        os.kill(pid, signal.SIGKILL)
        first, second = await journal.wait_for("started", "started")
        assert first != second
        send(signal.SIGTERM)

    run(journal.part(), script=script)
    assert "The part has ended with signal SIGKILL; it is started again" in capfd.readouterr().err


def test_a_part_that_is_killed_repeatedly_is_restarted_each_time(journal: Journal) -> None:
    async def script() -> None:
        for lives in range(1, 8):
            pids = await journal.wait_for(*["started"] * lives)
            os.kill(pids[-1], signal.SIGKILL)
        await journal.wait_for(*["started"] * 8)
        send(signal.SIGTERM)

    run(journal.part(), script=script)


def test_children_of_a_part_that_is_killed_end_with_it(journal: Journal) -> None:
    forking = SERVE.replace('say("started")', 'os.fork(); say("started")')

    async def script() -> None:
        pids = await journal.wait_for("started", "started")
        os.kill(min(pids), signal.SIGKILL)
        again = await journal.wait_for(*["started"] * 4)
        assert not set(pids) & set(again[2:])
        assert not any(map(is_running, pids))
        send(signal.SIGTERM)

    run(journal.part(forking), script=script)


def test_a_part_that_keeps_dying_ends_them_all(journal: Journal) -> None:
    async def script() -> None:
        await journal.wait_for("started")

    with pytest.raises(StartupError, match="The broken part keeps ending, at last with status 7"):
        run(journal.part(), Part("broken part", (sys.executable, "-c", DIE)), script=script)
    assert journal.words() == ["started", "SIGTERM"]


def test_a_part_that_can_reload_gets_the_signal(journal: Journal) -> None:
    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        one, two = await journal.wait_for("started", "SIGHUP")
        assert one == two
        send(signal.SIGTERM)

    run(journal.part(reload=signal.SIGHUP), script=script)


def test_a_part_that_cannot_reload_is_replaced_by_a_new_process(
    journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        old, _, new = await journal.wait_for("started", "SIGTERM", "started")
        assert old != new
        send(signal.SIGTERM)

    run(journal.part(), script=script)
    assert "ended" not in capfd.readouterr().err


def test_a_crash_after_a_reload_is_a_crash(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "_MOST_QUICK_DEATHS", 2)

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        pids = await journal.wait_for("started", "SIGHUP")
        os.kill(pids[0], signal.SIGUSR1)
        pids = await journal.wait_for("started", "SIGHUP", "started")
        os.kill(pids[-1], signal.SIGUSR1)

    # The part reloads without a new process, so the supervisor does not end it.
    with pytest.raises(StartupError, match="The part keeps ending, at last with signal SIGUSR1"):
        run(journal.part(reload=signal.SIGHUP), script=script)
    assert "The part has ended with signal SIGUSR1; it is started again" in capfd.readouterr().err


def test_a_part_that_does_not_end_at_a_reload_is_killed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "DRAIN_SECONDS", 0.3)

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        first, _, second = await journal.wait_for("started", "SIGTERM", "started")
        assert first != second
        send(signal.SIGTERM)

    run(journal.part(DEAF), script=script)
    assert "The part did not end within 0.3 s; it is killed." in capfd.readouterr().err


def test_a_part_that_is_starting_when_the_end_begins_gets_sigterm(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start = asyncio.create_subprocess_exec

    async def slow_start(*arguments: object, **options: object) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)  # type: ignore[arg-type]
        send(signal.SIGTERM)
        await asyncio.sleep(0.2)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow_start)
    run(journal.part(), script=nothing)
    assert "killed" not in capfd.readouterr().err


def test_a_reload_that_would_fail_is_refused(
    journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    check = (sys.executable, "-c", f"import os, sys; sys.exit('it is broken' if os.path.exists({str(flag)!r}) else 0)")

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        while "SIGHUP" not in (said := capfd.readouterr().err):
            await asyncio.sleep(0.01)
        assert said.count("\n") == 1
        assert "it is broken" in said
        assert journal.words() == ["started"]
        flag.unlink()
        send(signal.SIGHUP)
        await journal.wait_for("started", "SIGHUP")
        send(signal.SIGTERM)

    run(journal.part(reload=signal.SIGHUP), script=script, check=check)


def test_a_reload_requested_during_a_check_follows_the_check(journal: Journal, tmp_path: Path) -> None:
    checks = tmp_path / "checks"
    source = f"import time; open({str(checks)!r}, 'a').write('x'); time.sleep(0.5)"

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGHUP)
        while not checks.exists():
            await asyncio.sleep(0.01)
        send(signal.SIGHUP)
        await journal.wait_for("started", "SIGHUP", "SIGHUP")
        assert checks.read_text() == "xx"
        send(signal.SIGTERM)

    run(journal.part(reload=signal.SIGHUP), script=script, check=(sys.executable, "-c", source))


def test_a_part_that_does_not_end_is_killed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "DRAIN_SECONDS", 0.3)

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGTERM)

    run(journal.part(DEAF), script=script)
    assert not is_alive(journal.entries()[0][1])
    assert "it is killed" in capfd.readouterr().err


def test_parts_do_not_outlive_a_supervisor_that_is_killed(journal: Journal) -> None:
    source = f"""
import asyncio, os
from zaqar.cmd.server.supervisor import Part, Supervisor
async def nothing(): pass
asyncio.run(Supervisor([{journal.part()!r}], env=os.environ).run(nothing))
""".replace("<Signals.SIGTERM: 15>", "15")

    async def script() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", source)
        await journal.wait_for("started")
        process.kill()
        await process.wait()
        await journal.wait_for("started", "SIGTERM")

    asyncio.run(script())


def test_an_error_of_the_announcement_ends_all_parts(journal: Journal) -> None:
    async def fail() -> None:
        await journal.wait_for("started")
        raise StartupError("no answer")

    with pytest.raises(StartupError, match="no answer"):
        run(journal.part(), script=nothing, started=fail)
    assert journal.words() == ["started", "SIGTERM"]


def test_parts_go_on_during_a_drain_and_a_second_signal_ends_it(journal: Journal, tmp_path: Path) -> None:
    seen: list[object] = []
    draining = tmp_path / "draining"

    async def stop_accepting() -> None:
        seen.append(journal.words())

    async def script() -> None:
        (killed,) = await journal.wait_for("started")
        send(signal.SIGTERM)
        while not draining.exists():
            await asyncio.sleep(0.01)
        # A part that dies meanwhile is started again, and SIGHUP changes nothing.
        os.kill(killed, signal.SIGKILL)
        send(signal.SIGHUP)
        await journal.wait_for("started", "started")
        send(signal.SIGTERM)

    async def both() -> None:
        supervised = Supervisor(
            [journal.part()],
            env=os.environ,
            drain_file=draining,
            drain_delay=600.0,
            stop_accepting=stop_accepting,
        )
        await asyncio.gather(supervised.run(nothing, lambda: seen.append("ends")), script())

    asyncio.run(both())
    assert seen == [["started", "started"], "ends"]
    assert journal.words()[-1] == "SIGTERM"
    assert not draining.exists()


def test_parts_end_after_the_function_that_has_to_run_first(journal: Journal) -> None:
    seen = []

    async def script() -> None:
        await journal.wait_for("started")
        send(signal.SIGTERM)

    async def both() -> None:
        supervised = Supervisor([journal.part()], env=os.environ)
        await asyncio.gather(supervised.run(nothing, lambda: seen.append(journal.words())), script())

    asyncio.run(both())
    assert seen == [["started"]]
