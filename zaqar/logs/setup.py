# SPDX-License-Identifier: Apache-2.0
"""Sets up the log of a process. Each command calls :func:`set_up`, and calls it again when it reloads."""

from __future__ import annotations

import logging

from oslo_config import cfg
from oslo_log import log

from zaqar.conf import misspelt_options, warn_once
from zaqar.conf.opts import list_own_opts
from zaqar.errors import StartupError
from zaqar.logs import context
from zaqar.logs.formatters import JsonFormatter, RedactingFormatter, Redactor
from zaqar.logs.repeats import RepeatFilter

_set_levels: set[str] = set()
"""The loggers whose levels the present set-up has set."""

_own_handlers: set[logging.Handler] = set()
"""The handlers that the present set-up has made."""


def set_up(conf: cfg.ConfigOpts, part: str) -> None:
    """Set up the log by the options of oslo.log and ``[logging]``. ``part`` is the kind of the process, such as "api".

    Raises StartupError if a file that they name cannot be used; the log then stays as it was.
    """
    root = logging.getLogger()
    before = list(root.handlers)
    levels = set() if conf.log_config_append else {pair.partition("=")[0] for pair in conf.default_log_levels}
    # oslo.log sets the levels that its option names and leaves all others as an earlier set-up has set them.
    dropped = {logger: logger.level for logger in map(logging.getLogger, _set_levels - levels)}
    for logger in dropped:
        logger.setLevel(logging.NOTSET)
    try:
        _set_up(conf)
    except StartupError:
        # oslo.log has removed the handlers before it failed.
        root.handlers[:] = before
        for logger, level in dropped.items():
            logger.setLevel(level)
        raise
    _set_levels.clear()
    _set_levels.update(levels)
    _adjust(conf, part)
    # oslo.log makes new handlers each time. Others, such as those of a program that embeds the service, are not ours.
    for handler in _own_handlers.difference(root.handlers):
        # Otherwise each reload would leave the file of the log open once more.
        handler.close()
    _own_handlers.clear()
    _own_handlers.update(set(root.handlers).difference(before))
    for warning in misspelt_options(conf):
        warn_once(warning)


def _set_up(conf: cfg.ConfigOpts) -> None:
    """Let oslo.log set up handlers and levels."""
    try:
        log.setup(conf, "zaqar")
    except log.LogConfigError as exc:
        reason = " ".join(str(exc.err_msg).split())
        raise StartupError(f"[DEFAULT] log_config_append: {exc.log_config} cannot be used: {reason}") from exc
    except OSError as exc:
        place = f"{exc.filename} cannot be written to: " if exc.filename else ""
        raise StartupError(f"[DEFAULT] log_file, log_dir: {place}{exc.strerror}.") from exc


def _adjust(conf: cfg.ConfigOpts, part: str) -> None:
    """Put our formatters and filters on every handler: those of oslo.log, of a file for logging, and of the server.

    A handler that oslo.log has not made is there again when the process reloads. It gets those of the new options.
    """
    redactor, repeats, request = Redactor(_secrets_of(conf)), RepeatFilter(), _RequestFilter()
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if conf.logging.format == "json":
            handler.setFormatter(JsonFormatter(part, redactor))
        else:
            inner = handler.formatter
            inner = inner.inner if isinstance(inner, RedactingFormatter) else inner
            handler.setFormatter(RedactingFormatter(inner, redactor))
        for earlier in [each for each in handler.filters if isinstance(each, _RequestFilter | RepeatFilter)]:
            handler.removeFilter(earlier)
        handler.addFilter(request)
        handler.addFilter(repeats)


def _secrets_of(conf: cfg.ConfigOpts) -> list[str]:
    """The values of all options that are marked as secret, each item of a list by itself."""
    found: list[str] = []
    for group, opts in list_own_opts():
        for opt in opts:
            if opt.secret:
                value = (conf if group == "DEFAULT" else conf[group])[opt.dest]
                found += [str(each) for each in (value if isinstance(value, list) else [value]) if each]
    # A URI is marked as secret for its password. Without one it is no secret, and with one the password is removed.
    return [secret for secret in found if "://" not in secret]


class _RequestFilter(logging.Filter):
    """Gives each record the id of the request. oslo.log then uses ``logging_context_format_string``."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, "request_id", None) and (request_id := context.request_id.get()):
            record.request_id = request_id
        return True
