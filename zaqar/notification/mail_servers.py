# SPDX-License-Identifier: Apache-2.0
"""Who takes a mail to send it on: a command such as sendmail, or an SMTP server."""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import os
import shlex
import signal
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Protocol, Self

from oslo_config import cfg

from zaqar.conf import notification
from zaqar.errors import StartupError
from zaqar.notification import threads

TOTAL_SECONDS = 30.0
"""Within which a mail has to be taken."""

STEP_SECONDS = 10.0
"""Within which an SMTP server has to answer one command."""

_TLS_PORT = 465
_PLAIN_PORT = 25


class MailRefused(Exception):
    """A mail was not taken; the text is one line for people, without secrets. ``reached``: somebody answered."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class MailServer(Protocol):
    @property
    def name(self) -> str:
        """What the number of mails at a time is bounded for."""
        ...

    async def take(self, mail: EmailMessage) -> None:
        """Raises MailRefused."""
        ...


def from_conf(conf: cfg.ConfigOpts) -> MailServer:
    """Raises StartupError where what is configured cannot work."""
    if conf[notification.GROUP].smtp_mode == "self_local":
        return SmtpServer.from_conf(conf)
    return Command.from_conf(conf)


@dataclass(frozen=True)
class Command:
    """A command that takes a mail on its input and its addressees from the header. No shell sees it."""

    argv: tuple[str, ...]
    total_seconds: float = TOTAL_SECONDS
    name: str = "smtp_command"

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        try:
            argv = shlex.split(conf[notification.GROUP].smtp_command or "")
        except ValueError as exc:
            raise StartupError(f"[notification] smtp_command is not a command: {exc}.") from exc
        if not argv:
            raise StartupError("[notification] smtp_command must not be empty.")
        return cls(tuple(argv))

    async def take(self, mail: EmailMessage) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                # A group of its own, so that what the command started ends with it.
                start_new_session=True,
            )
        except OSError as exc:
            raise MailRefused(f"the mail command cannot be run: {exc.strerror}", reached=False) from exc
        try:
            async with asyncio.timeout(self.total_seconds):
                await process.communicate(_for_a_command(mail))
        except TimeoutError as exc:
            raise MailRefused(f"the mail command took over {self.total_seconds:g} seconds", reached=False) from exc
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise MailRefused(f"the mail command ended with status {process.returncode}")


@dataclass(frozen=True)
class SmtpServer:
    """A server that mails are handed to, by one connection each."""

    host: str
    port: int
    security: str = "auto"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    total_seconds: float = TOTAL_SECONDS
    authorities: ssl.SSLContext = field(default_factory=ssl.create_default_context, repr=False)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        options = conf[notification.GROUP]
        if not options.smtp_host:
            raise StartupError("[notification] smtp_mode=self_local needs smtp_host to be set.")
        if options.smtp_user_name and options.smtp_security == "none":
            raise StartupError("[notification] smtp_security=none would send the password of smtp_user_name in clear.")
        port = options.smtp_port or (_TLS_PORT if options.smtp_security == "tls" else _PLAIN_PORT)
        return cls(options.smtp_host, port, options.smtp_security, options.smtp_user_name, options.smtp_user_password)

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    async def take(self, mail: EmailMessage) -> None:
        try:
            async with asyncio.timeout(self.total_seconds):
                await threads.call(lambda: self._hand_over(mail), name="smtp")
        except TimeoutError as exc:
            raise MailRefused(f"the mail server took over {self.total_seconds:g} seconds", reached=False) from exc

    def _hand_over(self, mail: EmailMessage) -> None:
        try:
            with contextlib.closing(self._connect()) as server:
                secured = self._secure(server)
                if self.user:
                    if not secured:
                        raise MailRefused("the mail server offers no TLS, and the password is not sent without")
                    server.login(self.user, self.password or "")
                server.send_message(mail)
                # It is taken: what becomes of the good-bye changes nothing.
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()
        except smtplib.SMTPAuthenticationError as exc:
            # What it says may repeat the name, and that is the operator's.
            raise MailRefused("the mail server refused the login") from exc
        except smtplib.SMTPRecipientsRefused as exc:
            code, text = next(iter(exc.recipients.values()))
            raise MailRefused(_spoken(code, text)) from exc
        except smtplib.SMTPResponseException as exc:
            raise MailRefused(_spoken(exc.smtp_code, exc.smtp_error)) from exc
        except smtplib.SMTPServerDisconnected as exc:
            raise MailRefused("the mail server closed the connection", reached=False) from exc
        except smtplib.SMTPException as exc:
            raise MailRefused(f"the mail server cannot take it: {exc}") from exc
        except ssl.SSLError as exc:
            raise MailRefused("no TLS connection to the mail server can be made", reached=False) from exc
        except OSError as exc:
            raise MailRefused("the mail server cannot be reached", reached=False) from exc

    def _connect(self) -> smtplib.SMTP:
        if self.security == "tls" or (self.security == "auto" and self.port == _TLS_PORT):
            return smtplib.SMTP_SSL(self.host, self.port, timeout=STEP_SECONDS, context=self.authorities)
        return smtplib.SMTP(self.host, self.port, timeout=STEP_SECONDS)

    def _secure(self, server: smtplib.SMTP) -> bool:
        """Whether the connection is encrypted now, with a server that is who it says wherever that matters."""
        if isinstance(server, smtplib.SMTP_SSL):
            return True
        if self.security == "none":
            return False
        server.ehlo()
        if self.security == "auto" and not server.has_extn("starttls"):
            return False
        if self.security == "auto" and not self.user:
            # Nothing was promised and no password is sent: encryption to whoever it is beats none (RFC 7435), and
            # the mail server of a host has a certificate of its own making more often than not.
            server.starttls(context=_unverified())
        else:
            server.starttls(context=self.authorities)
        return True


def _for_a_command(mail: EmailMessage) -> bytes:
    # With the line ends of the system, as SMTP has its own. An address beyond ASCII can only be written in UTF-8.
    international = not f"{mail['From']}{mail['To']}".isascii()
    return mail.as_bytes(policy=email.policy.default.clone(utf8=international))


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _spoken(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"
