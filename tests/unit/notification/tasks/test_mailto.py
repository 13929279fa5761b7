# SPDX-License-Identifier: Apache-2.0
"""The mail task with a real SMTP server, with and without TLS, and with a command in the place of sendmail."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.clock import START
from tests.unit.notification.certificates import server_context
from tests.unit.notification.subjects import a_conf, a_delivery, a_subscription
from zaqar.errors import StartupError
from zaqar.model import SUBSCRIPTION_CONFIRMATION
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.mail_servers import Command, MailServer, SmtpServer
from zaqar.notification.tasks.base import Outcome
from zaqar.notification.tasks.mailto import MailTask

TAKEN = Outcome(True, None, "the mail was taken")


class Mailbox:
    """What an SMTP server was given, and what it says to a recipient."""

    def __init__(self, answer: str = "250 OK", good_bye: str = "221 Bye") -> None:
        self.answer = answer
        self.good_bye = good_bye
        self.mails: list[Envelope] = []
        self.encrypted: list[bool] = []

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append(envelope)
        self.encrypted.append(session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return self.good_bye


def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data == LoginPassword(b"me", b"pass-word"), handled=False)


@asynccontextmanager
async def mail_server(box: Mailbox, *, tls: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[int]:
    """The port of an SMTP server; ``tls`` is TLS from the start."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(box, loop=loop, hostname="mail.example", **settings), "127.0.0.1", 0, ssl=tls
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


def mail_by(server: MailServer, **changes: Any) -> Outcome:
    return asyncio.run(send_by(server, **changes))


async def send_by(server: MailServer, **changes: Any) -> Outcome:
    task = MailTask(server, Confirmations(a_conf()))
    subscription = a_subscription(**({"subscriber": "mailto:a@example.org"} | changes))
    return await task.send(a_delivery(), subscription, now=START)


def try_smtp(
    box: Mailbox, *, client: dict[str, Any] | None = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> Outcome:
    async def run() -> Outcome:
        async with mail_server(box, tls=tls, **settings) as port:
            return await send_by(SmtpServer("127.0.0.1", port, **(client or {})))

    return asyncio.run(run())


@pytest.mark.parametrize("security", ["none", "auto"])
def test_a_server_without_tls(security: str) -> None:
    box = Mailbox()
    assert try_smtp(box, client={"security": security}) == TAKEN
    (mail,) = box.mails
    assert mail.mail_from == "no-reply@openstack.org"
    assert mail.rcpt_tos == ["a@example.org"]
    assert isinstance(mail.content, bytes)
    assert b"\r\nTo: a@example.org\r\n" in mail.content
    assert b'"n": 1' in mail.content
    assert box.encrypted == [False]


@pytest.mark.parametrize(
    ("security", "offered", "trusted", "user", "encrypted"),
    [
        # security, the server offers STARTTLS, its certificate is known, log in -> encrypted, None: not sent
        ("starttls", True, True, None, True),
        ("starttls", True, False, None, None),
        ("starttls", False, True, None, None),
        ("starttls", True, True, "me", True),
        ("auto", True, True, None, True),
        ("auto", True, False, None, True),
        ("auto", True, True, "me", True),
        ("auto", True, False, "me", None),
        ("auto", False, True, "me", None),
        ("none", True, True, None, False),
    ],
)
def test_starttls(
    certificate: Path, security: str, offered: bool, trusted: bool, user: str | None, encrypted: bool | None
) -> None:
    box = Mailbox()
    settings: dict[str, Any] = {"tls_context": server_context(certificate)} if offered else {}
    if user:
        settings |= {"authenticator": login, "auth_required": offered, "auth_require_tls": offered}
    client = {"security": security, "user": user, "password": "pass-word"}
    if trusted:
        client["authorities"] = ssl.create_default_context(cafile=str(certificate))
    outcome = try_smtp(box, client=client, **settings)
    assert box.encrypted == ([] if encrypted is None else [encrypted])
    assert outcome.delivered is (encrypted is not None)
    assert "pass-word" not in outcome.answer


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_from_the_start(certificate: Path, trusted: bool) -> None:
    box = Mailbox()
    client: dict[str, Any] = {"security": "tls"}
    if trusted:
        client["authorities"] = ssl.create_default_context(cafile=str(certificate))
    outcome = try_smtp(box, client=client, tls=server_context(certificate))
    assert box.encrypted == ([True] if trusted else [])
    assert outcome.delivered is trusted
    assert outcome.reached is trusted


def test_a_login_that_is_refused(certificate: Path) -> None:
    outcome = try_smtp(
        Mailbox(),
        client={
            "user": "me",
            "password": "wrong-word",
            "authorities": ssl.create_default_context(cafile=str(certificate)),
        },
        tls_context=server_context(certificate),
        authenticator=login,
    )
    assert outcome == Outcome(False, None, "the mail server refused the login")


@pytest.mark.parametrize("answer", ["550 5.1.1 no such user", "451 try again later"])
def test_a_mail_that_is_refused(answer: str) -> None:
    box = Mailbox(answer)
    assert try_smtp(box) == Outcome(False, None, answer)
    assert box.mails == []


def test_what_was_taken_stays_so_whatever_the_server_says_then() -> None:
    box = Mailbox(good_bye="451 not so fast")
    assert try_smtp(box) == TAKEN
    assert len(box.mails) == 1


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = mail_by(SmtpServer("127.0.0.1", unused.getsockname()[1]))
    assert outcome == Outcome(False, None, "the mail server cannot be reached", reached=False)


def test_a_mail_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        outcome = mail_by(SmtpServer("127.0.0.1", mute.getsockname()[1], total_seconds=0.1))
    assert outcome == Outcome(False, None, "the mail server took over 0.1 seconds", reached=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"subscriber": "mailto:a@example.org%0d%0aRCPT%20TO:b@example.org"},
        {"subscriber": "mailto:a@example.org?subject=x%0d%0aBcc:b@example.org"},
        {"options": {"from": "me@example.org>\r\nRCPT TO:<b@example.org"}},
        {"options": {"subject": "x\nBcc: b@example.org"}},
    ],
)
def test_a_header_or_command_that_is_brought_in_is_refused(changes: dict[str, Any]) -> None:
    box = Mailbox()

    async def run() -> Outcome:
        async with mail_server(box) as port:
            return await send_by(SmtpServer("127.0.0.1", port), **changes)

    outcome = asyncio.run(run())
    assert not outcome.delivered
    assert box.mails == []


def a_command(folder: Path, text: str) -> Command:
    """A command in Python that finds its mail in ``mail`` and may write into the folder."""
    script = folder / "send mail.py"
    script.write_text(f"import pathlib, sys, time\nmail = sys.stdin.buffer.read()\nfolder = {str(folder)!r}\n{text}")
    return Command.from_conf(a_conf(smtp_command=shlex.join([sys.executable, str(script), "-t", "~;*|x"])))


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


def test_a_command_that_fails(tmp_path: Path) -> None:
    outcome = mail_by(a_command(tmp_path, "print('x' * 1_000_000)\nsys.exit(75)"))
    assert outcome == Outcome(False, None, "the mail command ended with status 75")


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
    assert outcome == Outcome(False, None, "the mail command took over 0.5 seconds", reached=False)


def test_a_confirmation_needs_a_key() -> None:
    task = MailTask(Command(("false",)), Confirmations(a_conf(secret_key=None)))
    delivery = a_delivery(b"", kind=SUBSCRIPTION_CONFIRMATION, number=0)
    outcome = asyncio.run(task.send(delivery, a_subscription("mailto:a@example.org"), now=START))
    assert not outcome.delivered
    assert "secret_key" in outcome.answer


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, "smtp_command"),
        ({"smtp_mode": "self_local", "smtp_host": "mail.example"}, "mail.example:25"),
        ({"smtp_mode": "self_local", "smtp_host": "mail.example", "smtp_port": 587}, "mail.example:587"),
        ({"smtp_mode": "self_local", "smtp_host": "mail.example", "smtp_security": "tls"}, "mail.example:465"),
    ],
)
def test_the_target_is_who_takes_the_mail(options: dict[str, Any], target: str) -> None:
    assert MailTask.from_conf(a_conf(**options)).target(a_subscription("mailto:a@example.org")) == target


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"smtp_mode": "self_local"}, "smtp_host"),
        ({"smtp_command": ""}, "smtp_command"),
        ({"smtp_command": "sendmail 'x"}, "smtp_command"),
        (
            {"smtp_mode": "self_local", "smtp_host": "m", "smtp_user_name": "me", "smtp_security": "none"},
            "smtp_security",
        ),
    ],
)
def test_what_cannot_work_stops_the_start(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint):
        MailTask.from_conf(a_conf(**options))


def test_the_password_is_not_shown() -> None:
    assert "pass-word" not in repr(SmtpServer("h", 25, user="me", password="pass-word"))
