# SPDX-License-Identifier: Apache-2.0
"""The mail task with a real SMTP server, with and without TLS. Tests with a command are in tests/acceptance."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.clock import START
from tests.unit.notification.certificates import authorities, server_context, system_authorities
from tests.unit.notification.subjects import a_conf, a_delivery, a_subscription, default_confirmations
from zaqar.errors import StartupError
from zaqar.model import SUBSCRIPTION_CONFIRMATION
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.retry import MAIL_DELAYS
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.mail_servers import Command, MailServer, SmtpServer
from zaqar.notification.senders.mailto import MailSender

TAKEN = Outcome(True, None, "the mail was taken")


def put_off(reason: str, *, reached: bool = True) -> Outcome:
    """The mail is tried again on the time scale of mail."""
    return Outcome(False, None, reason, reached=reached)


def refused(reason: str) -> Outcome:
    """The mail is dead."""
    return Outcome(False, None, reason, final=True)


class Mailbox:
    """The input of an SMTP server, and its answers to some commands in place of 250."""

    def __init__(self, answers: dict[str, str] | None = None, good_bye: str = "221 Bye") -> None:
        self.answers = answers or {}
        self.good_bye = good_bye
        self.mails: list[Envelope] = []
        self.encrypted: list[bool] = []

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "MAIL" not in self.answers:
            envelope.mail_from = address
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "RCPT" not in self.answers:
            envelope.rcpt_tos.append(address)
        return self.answers.get("RCPT", "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if "DATA" in self.answers:
            return self.answers["DATA"]
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
    sender = MailSender(server, default_confirmations())
    subscription = a_subscription(**({"subscriber": "mailto:a@example.org"} | changes))
    return await sender.send(a_delivery(), subscription, now=START)


def try_smtp(
    box: Mailbox, *, client: dict[str, Any] | None = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> Outcome:
    changes = {name: settings.pop(name) for name in ("subscriber", "options") if name in settings}

    async def run() -> Outcome:
        async with mail_server(box, tls=tls, **settings) as port:
            server = SmtpServer("127.0.0.1", port, **({"authorities": system_authorities()} | (client or {})))
            return await send_by(server, **changes)

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
        client["authorities"] = authorities(certificate)
    outcome = try_smtp(box, client=client, **settings)
    assert box.encrypted == ([] if encrypted is None else [encrypted])
    assert outcome.delivered is (encrypted is not None)
    assert "pass-word" not in outcome.answer


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_from_the_start(certificate: Path, trusted: bool) -> None:
    box = Mailbox()
    client: dict[str, Any] = {"security": "tls"}
    if trusted:
        client["authorities"] = authorities(certificate)
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
            "authorities": authorities(certificate),
        },
        tls_context=server_context(certificate),
        authenticator=login,
    )
    assert outcome == put_off("the mail server refused the login")


REFUSALS = [
    # stage, answer, final
    ("RCPT", "550 5.1.1 no such user", True),
    ("RCPT", "551 not local", True),
    ("RCPT", "552 5.2.2 mailbox full", True),
    ("RCPT", "553 no such name", True),
    ("RCPT", "554 5.7.1 refused", True),
    ("RCPT", "556 takes no mail", True),
    ("RCPT", "450 4.2.0 greylisted", False),
    ("RCPT", "451 try again later", False),
    ("RCPT", "452 4.2.2 mailbox full", False),
    ("RCPT", "421 closing", False),
    ("RCPT", "530 5.7.0 authentication required", False),
    ("MAIL", "550 5.7.1 not this sender", True),
    ("MAIL", "553 5.1.8 no such domain", True),
    ("MAIL", "452 no room", False),
    ("MAIL", "530 5.7.0 must issue STARTTLS first", False),
    ("DATA", "554 5.7.1 spam", True),
    ("DATA", "552 5.3.4 too large", True),
    ("DATA", "451 4.7.1 greylisted", False),
    ("DATA", "421 closing", False),
]


@pytest.mark.parametrize(("stage", "answer", "final"), REFUSALS)
def test_5xx_is_final_and_4xx_is_not(stage: str, answer: str, final: bool) -> None:
    box = Mailbox({stage: answer})
    assert try_smtp(box) == (refused(answer) if final else put_off(answer))
    assert box.mails == []


@pytest.mark.parametrize(
    ("script", "reason", "reached"),
    [
        ({None: b"554 no service here\r\n"}, "554 no service here", True),
        ({None: b"421 too busy\r\n"}, "421 too busy", True),
        ({None: b"SSH-2.0-x\r\n"}, "the answer of the mail server is not SMTP", True),
        ({None: b""}, "the mail server cannot be reached", False),
        ({b"EHLO": b"550 no\r\n", b"HELO": b"550 neither\r\n"}, "550 neither", True),
        ({b"MAIL": b""}, "the mail server closed the connection", False),
        ({b"DATA": b""}, "the mail server closed the connection", False),
        ({b".": b""}, "the mail server closed the connection", False),
        ({b"RCPT": b"250" + b"-x" * 50_000}, "the answer of the mail server is not SMTP", True),
        (
            {b"RCPT": b"450-not\r\n450 \xff\xfe now\r\n"},
            "450 not \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} now",
            True,
        ),
        ({b"RCPT": b"350 what\r\n"}, "350 what", True),
    ],
)
def test_an_answer_that_is_not_about_the_mail_is_not_final(
    script: dict[bytes | None, bytes], reason: str, reached: bool
) -> None:
    async def run() -> Outcome:
        async with scripted_server(script) as port:
            return await send_by(SmtpServer("127.0.0.1", port, "none"))

    assert asyncio.run(run()) == put_off(reason, reached=reached)


@asynccontextmanager
async def scripted_server(script: dict[bytes | None, bytes]) -> AsyncIterator[int]:
    """The port of an SMTP server that says these answers to these commands; None is before any, empty ends it."""
    usual = {None: b"220 mail.example\r\n", b"DATA": b"354 go on\r\n"}

    serving: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command: bytes | None = None
        while answer := script.get(command, usual.get(command, b"250 OK\r\n")):
            writer.write(answer)
            if command == b"DATA":
                await reader.readuntil(b"\r\n.\r\n")
                command = b"."
            elif line := await reader.readline():
                command = line[:4]
            else:
                return

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, serving))


def test_an_address_goes_to_the_wire_in_its_ascii_form() -> None:
    box = Mailbox()
    outcome = try_smtp(box, subscriber="mailto:a@b%C3%BCcher.example", options={"from": "Bücher <me@BÜCHER.example>"})
    assert outcome == TAKEN
    (mail,) = box.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("me@xn--bcher-kva.example", ["a@xn--bcher-kva.example"])
    assert isinstance(mail.content, bytes)
    assert b"\r\nTo: a@xn--bcher-kva.example\r\n" in mail.content


def test_that_no_mail_is_taken_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            sender = MailSender(SmtpServer("127.0.0.1", port), default_confirmations())
            for _ in range(3):
                await sender.send(a_delivery(), a_subscription("mailto:a@example.org"), now=START)
        box = Mailbox({"RCPT": "550 no"})
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: SMTP(box, loop=loop, hostname="m"), "127.0.0.1", port):
            for _ in range(2):
                await sender.send(a_delivery(), a_subscription("mailto:a@example.org"), now=START)

    asyncio.run(run())
    first, last = [record.getMessage() for record in caplog.records if record.name.startswith("zaqar")]
    assert first.startswith("No mail is taken by 127.0.0.1:")
    assert last.startswith("Mails are taken by 127.0.0.1:")


def test_a_mail_that_was_taken_stays_so_whatever_the_server_answers_to_quit() -> None:
    box = Mailbox(good_bye="451 not so fast")
    assert try_smtp(box) == TAKEN
    assert len(box.mails) == 1


def test_a_port_on_which_no_process_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = mail_by(SmtpServer("127.0.0.1", unused.getsockname()[1]))
    assert outcome == put_off("the mail server cannot be reached", reached=False)


def test_a_mail_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        outcome = mail_by(SmtpServer("127.0.0.1", mute.getsockname()[1], total_seconds=0.1))
    assert outcome == put_off("the mail server took over 0.1 seconds", reached=False)


INJECTIONS: list[dict[str, Any]] = [
    {"subscriber": "mailto:a@example.org%0d%0aRCPT%20TO:v@example.org"},
    {"subscriber": "mailto:a@example.org%3E%0d%0aRCPT%20TO:%3Cv@example.org"},
    {"subscriber": "mailto:a@example.org,v@example.org"},
    {"subscriber": "mailto:a@example.org?subject=x%0d%0aBcc:v@example.org"},
    {"subscriber": "mailto:a@example.org?subject=x&bcc=v@example.org"},
    {"subscriber": "mailto:a@example.org?subject=%3D%3Futf-8%3Fq%3Fhi%3D0ABcc:_v@x%3F%3D"},
    {"subscriber": "mailto:=?utf-8?q?v=40x=2C?=@example.org"},
    {"options": {"from": "me@example.org>\r\nRCPT TO:<v@example.org"}},
    {"options": {"from": "=?utf-8?q?hi=0ABcc:_v@x=0A?= <me@example.org>"}},
    {"options": {"from": "v@x, <me@example.org>"}},
    {"options": {"subject": "x\nBcc: v@example.org"}},
    {"options": {"subject": "=?utf-8?q?hi=0ABcc:_v@x?="}},
    {"options": {"subject": "=?utf-8?b?aGkKQmNjOiB2QHg=?="}},
]


@pytest.mark.parametrize("changes", INJECTIONS, ids=str)
def test_no_header_or_recipient_is_injected(changes: dict[str, Any]) -> None:
    box = Mailbox()
    outcome = try_smtp(box, **changes)
    assert all(mail.rcpt_tos == ["a@example.org"] for mail in box.mails)
    check_headers(outcome, [bytes(mail.content or b"").replace(b"\r\n", b"\n") for mail in box.mails])


def check_headers(outcome: Outcome, contents: list[bytes]) -> None:
    """The mail was sent as plain text to its recipient, or not at all and never will be."""
    assert outcome.delivered or outcome.final
    assert len(contents) == outcome.delivered
    for content in contents:
        lines = content.partition(b"\n\n")[0].split(b"\n")
        names = [line.partition(b":")[0] for line in lines if line[:1] not in b" \t"]
        assert len(names) == len(set(names)) == 9
        assert not {b"Bcc", b"Cc", b"Resent-To"} & set(names)
        assert b"To: a@example.org" in lines


def test_a_confirmation_needs_a_key() -> None:
    sender = MailSender(Command(("false",)), Confirmations(a_conf(secret_key=None)))
    delivery = a_delivery(b"", kind=SUBSCRIPTION_CONFIRMATION, number=0)
    outcome = asyncio.run(sender.send(delivery, a_subscription("mailto:a@example.org"), now=START))
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
def test_the_target_is_the_mail_server_or_the_command(options: dict[str, Any], target: str) -> None:
    assert MailSender.from_conf(a_conf(**options)).target(a_subscription("mailto:a@example.org")) == target


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
        ({"subscription_confirmation_email_template": {"topic": "x"}}, "subscription_confirmation_email_template"),
        ({"unsubscribe_confirmation_email_template": {"sender": "me"}}, "unsubscribe_confirmation_email_template"),
    ],
)
def test_a_configuration_that_cannot_work_stops_the_start(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint):
        MailSender.from_conf(a_conf(**options))


def test_mails_have_delays_of_their_own() -> None:
    assert MailSender.from_conf(a_conf()).delays == MAIL_DELAYS


def test_the_password_is_not_shown() -> None:
    assert "pass-word" not in repr(SmtpServer("h", 25, user="me", password="pass-word"))
