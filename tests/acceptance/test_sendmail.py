# SPDX-License-Identifier: Apache-2.0
"""The mail task with a command in the place of sendmail: what it gets, how it may end, and that nothing is injected."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.notification.senders.test_mailto import INJECTIONS, TAKEN, check_headers, mail_by, put_off, refused
from tests.unit.notification.subjects import a_conf
from zaqar.notification.senders.mail_servers import Command


def a_command(folder: Path, text: str) -> Command:
    """A command in Python that finds its mail in ``mail`` and may write into the folder."""
    script = folder / "send mail.py"
    script.write_text(f"import pathlib, sys, time\nmail = sys.stdin.buffer.read()\nfolder = {str(folder)!r}\n{text}")
    return Command.from_conf(a_conf(smtp_command=shlex.join([sys.executable, str(script), "-t", "~;*|x"])))


@pytest.mark.parametrize("changes", INJECTIONS, ids=str)
def test_no_header_or_command_is_injected(tmp_path: Path, changes: dict[str, Any]) -> None:
    outcome = mail_by(a_command(tmp_path, "pathlib.Path(folder, 'mail').write_bytes(mail)"), **changes)
    check_headers(outcome, [path.read_bytes() for path in tmp_path.glob("mail")])


def test_a_command_gets_the_mail_without_a_shell(tmp_path: Path) -> None:
    command = a_command(
        tmp_path,
        "pathlib.Path(folder, 'mail').write_bytes(mail)\n"
        "pathlib.Path(folder, 'arguments').write_text(repr(sys.argv[1:]))",
    )
    assert mail_by(command, options={"subject": "Hello"}) == TAKEN
    head, _, text = (tmp_path / "mail").read_bytes().partition(b"\n\n")
    assert b"\r" not in head
    assert {b"To: a@example.org", b"Subject: Hello"} <= set(head.split(b"\n"))
    assert json.loads(text)["body"] == {"n": 1}
    assert (tmp_path / "arguments").read_text() == repr(["-t", "~;*|x"])


@pytest.mark.parametrize(
    ("status", "final"),
    [
        *((status, True) for status in (65, 67, 68)),
        *((status, False) for status in (1, 64, 69, 70, 71, 73, 74, 75, 76, 77, 78, 127)),
    ],
)
def test_a_command_that_fails(tmp_path: Path, status: int, final: bool) -> None:
    outcome = mail_by(a_command(tmp_path, f"print('x' * 1_000_000)\nsys.exit({status})"))
    reason = f"the mail command ended with status {status}"
    assert outcome == (refused(reason) if final else put_off(reason))


def test_a_command_that_is_not_there() -> None:
    outcome = mail_by(Command(("/nonexistent/sendmail",)))
    assert (outcome.delivered, outcome.reached) == (False, False)
    assert outcome.answer.startswith("the mail command cannot be run: ")


def test_a_command_that_does_not_read(tmp_path: Path) -> None:
    outcome = mail_by(Command((sys.executable, "-c", "")), options={"subject": "x"})
    assert outcome == TAKEN


def test_a_command_that_hangs_is_ended_with_all_it_started() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    outcome = mail_by(Command((sys.executable, "-c", child), total_seconds=0.5))
    assert outcome == put_off("the mail command took over 0.5 seconds", reached=False)
