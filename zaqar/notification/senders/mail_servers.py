# SPDX-License-Identifier: Apache-2.0
"""The two ways to pass a mail on: a command such as sendmail, or an SMTP server. ``mailto`` calls ``take``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shlex
import signal
import socket
import ssl
from dataclasses import dataclass, field
from typing import Protocol, Self

import aiohappyeyeballs
import aiosmtplib
from oslo_config import cfg

from zaqar import daemon_threads
from zaqar.errors import StartupError
from zaqar.notification.senders.mail import Mail

TOTAL_SECONDS = 30.0
"""Time limit for passing on one mail."""

STEP_SECONDS = 10.0
"""Time limit of an SMTP server for the answer to one command."""

_GOODBYE_SECONDS = 1.0
_NEXT_ADDRESS_SECONDS = 0.25

_TLS_PORT = 465
_PLAIN_PORT = 25

_FINAL_EXITS = frozenset({65, 67, 68})
"""EX_DATAERR, EX_NOUSER and EX_NOHOST of sysexits.h: the mail or its recipient is wrong, not the mail system."""

_ABOUT_LOGIN = frozenset({530, 534, 535, 538})
"""5xx codes that say how the service has to log in (RFC 4954, section 6). A tenant cannot change that."""


_BUSY = 421
"""The server closes this connection, for a limit of its own for example. It may serve other connections."""


class MailRefused(Exception):
    """A mail was not taken. The text is one line that the owner of the subscription sees, without secrets.

    ``final``: the same mail will be refused again. ``operators``: the reason is not in this mail, and no other mail is
    taken either. ``reached``: the server or the command answered.
    """

    def __init__(self, reason: str, *, final: bool = False, operators: bool = False, reached: bool = True) -> None:
        super().__init__(reason)
        self.final = final
        self.operators = operators
        self.reached = reached


class MailServer(Protocol):
    @property
    def name(self) -> str:
        """The target whose attempts at a time are limited."""
        ...

    async def take(self, mail: Mail) -> None:
        """Raises MailRefused."""
        ...


def from_conf(conf: cfg.ConfigOpts) -> MailServer:
    """Raises StartupError if the configured server or command cannot work."""
    if conf.notification.smtp_mode == "self_local":
        return SmtpServer.from_conf(conf)
    return Command.from_conf(conf)


@dataclass(frozen=True)
class Command:
    """A command that reads a mail from its input, and the recipients from its header. It is run without a shell."""

    argv: tuple[str, ...]
    total_seconds: float = TOTAL_SECONDS
    name: str = "smtp_command"

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        try:
            argv = shlex.split(conf.notification.smtp_command or "")
        except ValueError as exc:
            raise StartupError(f"[notification] smtp_command is not a command: {exc}.") from exc
        if not argv:
            raise StartupError("[notification] smtp_command must not be empty.")
        return cls(tuple(argv))

    async def take(self, mail: Mail) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                # A process group of its own, so that child processes of the command can be killed with it.
                start_new_session=True,
            )
        except OSError as exc:
            raise MailRefused(f"the mail command cannot be run: {exc.strerror}", operators=True, reached=False) from exc
        try:
            async with asyncio.timeout(self.total_seconds):
                # With the line ends of the system: the mail command writes the line ends of SMTP.
                await process.communicate(mail.content.replace(b"\r\n", b"\n"))
        except TimeoutError as exc:
            raise MailRefused(
                f"the mail command took over {self.total_seconds:g} seconds", operators=True, reached=False
            ) from exc
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise MailRefused(
                f"the mail command ended with status {process.returncode}", final=process.returncode in _FINAL_EXITS
            )


@dataclass(frozen=True)
class SmtpServer:
    """An SMTP server. Each mail has its own connection."""

    host: str
    port: int
    security: str = "auto"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    total_seconds: float = TOTAL_SECONDS
    authorities: ssl.SSLContext = field(default_factory=ssl.create_default_context, repr=False)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        options = conf.notification
        if not options.smtp_host:
            raise StartupError("[notification] smtp_mode=self_local needs smtp_host to be set.")
        if options.smtp_user_name and options.smtp_security == "none":
            raise StartupError("[notification] smtp_security=none would send the password of smtp_user_name in clear.")
        port = options.smtp_port or (_TLS_PORT if options.smtp_security == "tls" else _PLAIN_PORT)
        return cls(options.smtp_host, port, options.smtp_security, options.smtp_user_name, options.smtp_user_password)

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    async def take(self, mail: Mail) -> None:
        server: aiosmtplib.SMTP | None = None
        try:
            async with asyncio.timeout(self.total_seconds):
                server = await self._connect()
                if self.user:
                    await self._log_in(server, self.user)
                await _hand_over(server, mail)
        except aiosmtplib.SMTPServerDisconnected as exc:
            raise MailRefused("the mail server closed the connection", reached=False) from exc
        except aiosmtplib.SMTPResponseException as exc:
            # Not about this mail: answers about the mail come in _hand_over.
            raise MailRefused(_spoken(exc.code, exc.message), operators=exc.code != _BUSY) from exc
        except TimeoutError as exc:
            seconds = STEP_SECONDS if isinstance(exc, aiosmtplib.SMTPTimeoutError) else self.total_seconds
            raise MailRefused(f"the mail server took over {seconds:g} seconds", operators=True, reached=False) from exc
        except aiosmtplib.SMTPException as exc:
            if isinstance(exc.__cause__, ssl.SSLError):
                raise _no_tls(exc.__cause__) from exc
            raise MailRefused("the mail server cannot be reached", operators=True, reached=False) from exc
        except ssl.SSLError as exc:
            raise _no_tls(exc) from exc
        except OSError as exc:
            raise MailRefused("the mail server cannot be reached", operators=True, reached=False) from exc
        else:
            # The mail was taken. A failure of QUIT changes nothing.
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await server.quit(timeout=_GOODBYE_SECONDS)
        finally:
            if server is not None:
                server.close()

    async def _connect(self) -> aiosmtplib.SMTP:
        """A connection, with TLS if ``security`` asks for it or the server offers it."""
        tls = self.security == "tls" or (self.security == "auto" and self.port == _TLS_PORT)
        # The library would look up names in threads for which the end of the event loop waits.
        found = await daemon_threads.run(
            lambda: socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM), name="look-up"
        )
        own_name = await daemon_threads.run(_own_name, name="look-up")
        server = aiosmtplib.SMTP(
            hostname=self.host,
            sock=await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS),
            local_hostname=own_name,
            timeout=STEP_SECONDS,
            use_tls=tls,
            start_tls=False,
            tls_context=self.authorities,
        )
        await server.connect()
        try:
            if not tls and self.security != "none":
                await self._start_tls(server)
        except BaseException:
            server.close()
            raise
        return server

    async def _start_tls(self, server: aiosmtplib.SMTP) -> None:
        await _greet(server)
        if not server.supports_extension("starttls"):
            if self.security == "starttls":
                raise MailRefused("the mail server offers no TLS", operators=True)
            return
        if self.security == "auto" and not self.user:
            # No password is sent, so encryption without authentication is better than none (RFC 7435), and the mail
            # server of a host often has a self-signed certificate.
            await server.starttls(tls_context=_unverified())
        else:
            await server.starttls(tls_context=self.authorities)

    async def _log_in(self, server: aiosmtplib.SMTP, user: str) -> None:
        if server.get_transport_info("sslcontext") is None:
            raise MailRefused("the mail server offers no TLS, and the password is not sent without", operators=True)
        try:
            await server.login(user, self.password or "")
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError):
            raise
        except aiosmtplib.SMTPException as exc:
            # The answer of the server may repeat the user name, which tenants must not see.
            raise MailRefused("the mail server refused the login", operators=True) from exc


async def _hand_over(server: aiosmtplib.SMTP, mail: Mail) -> None:
    """Send sender, recipient and content of the mail. A 5xx answer to these is about this mail, and final."""
    await _greet(server)
    try:
        await _command(server, b"MAIL", f"FROM:<{mail.sender}>")
        await _command(server, b"RCPT", f"TO:<{mail.recipient}>")
        await server.data(mail.content)
    except aiosmtplib.SMTPResponseException as exc:
        operators = exc.code in _ABOUT_LOGIN
        final = 500 <= exc.code <= 599 and not operators
        raise MailRefused(_spoken(exc.code, exc.message), final=final, operators=operators) from exc


async def _command(server: aiosmtplib.SMTP, name: bytes, argument: str) -> None:
    # The library's own methods would parse the address with the email package.
    response = await server.execute_command(name, argument.encode("ascii"))
    if not 200 <= response.code <= 299:
        raise aiosmtplib.SMTPResponseException(response.code, response.message)


async def _greet(server: aiosmtplib.SMTP) -> None:
    if server.is_ehlo_or_helo_needed:
        try:
            await server.ehlo()
        except aiosmtplib.SMTPHeloError:
            await server.helo()


@functools.cache
def _own_name() -> str:
    """The name of this host for mail servers, which expect a full name or an address in brackets."""
    name = socket.getfqdn()
    return name if "." in name and name.isascii() and name.isprintable() and " " not in name else "[127.0.0.1]"


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _no_tls(exc: ssl.SSLError) -> MailRefused:
    return MailRefused("no TLS connection to the mail server can be made", operators=True, reached=False)


def _spoken(code: int, text: str) -> str:
    # The library keeps bytes that are not UTF-8 as lone surrogates, which cannot be stored.
    words = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"{code} {' '.join(words.split())}" if code > 0 else "the answer of the mail server is not SMTP"
