# SPDX-License-Identifier: Apache-2.0
"""``zaqar-status upgrade check``: whether this release can run with the present configuration and stores."""

from __future__ import annotations

import argparse
import enum
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oslo_config import cfg

from zaqar import app
from zaqar import conf as configuration
from zaqar.access.keystone import TokenValidator, check_strategy
from zaqar.clock import system_clock
from zaqar.cmd import failures
from zaqar.encryption import keys as encryption_keys
from zaqar.errors import KeystoneUnavailable, StartupError, StoreUnavailable
from zaqar.limits import Limits
from zaqar.policies import Authorizer

_WIDTH = 76
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Result(enum.IntEnum):
    """The result of a check. The values are exit statuses, as in the upgrade checks of other OpenStack services."""

    SUCCESS = 0
    WARNING = 1
    FAILURE = 2


class Finding(NamedTuple):
    check: str
    result: Result
    details: str = ""


def check_all(argv: Sequence[str]) -> list[Finding]:
    """Run all checks in turn. If the configuration cannot be read, this is the only finding."""
    try:
        conf = configuration.load(argv)
        Limits.from_conf(conf)
    except StartupError as exc:
        return [Finding("Configuration", Result.FAILURE, str(exc))]
    checks = (_check_policy, _check_encryption, _check_stores, _check_access)
    return [Finding("Configuration", Result.SUCCESS), *(check(conf) for check in checks)]


def _check_policy(conf: cfg.ConfigOpts) -> Finding:
    try:
        Authorizer(conf)
    except StartupError as exc:
        return Finding("Policy", Result.FAILURE, str(exc))
    return Finding("Policy", Result.SUCCESS)


def _check_encryption(conf: cfg.ConfigOpts) -> Finding:
    """Check that the keys can be loaded and that the newest one is not a default that everybody knows."""
    try:
        encryption_keys.load(conf)
    except StartupError as exc:
        return Finding("Message encryption", Result.FAILURE, str(exc))
    weakness = encryption_keys.weakness(conf)
    if weakness is not None:
        return Finding("Message encryption", Result.WARNING, weakness)
    return Finding("Message encryption", Result.SUCCESS)


def _check_stores(conf: cfg.ConfigOpts) -> Finding:
    """Check that the drivers can be loaded, that the stores answer, and that the schemas fit this release."""
    try:
        parts = app.build(conf)
    except (StartupError, StoreUnavailable) as exc:
        return Finding("Stores", Result.FAILURE, str(exc))
    try:
        parts.health.ping()
        away = sorted(name or "" for name, survives in parts.health.survey().items() if survives is None)
    except StoreUnavailable as exc:
        return Finding("Stores", Result.FAILURE, str(exc))
    finally:
        parts.close()
    if away:
        names = ", ".join(name or "the configured message store" for name in away)
        return Finding("Stores", Result.WARNING, f"Pools that do not answer, and whose queues are not served: {names}.")
    return Finding("Stores", Result.SUCCESS)


def _check_access(conf: cfg.ConfigOpts) -> Finding:
    if conf.auth_strategy:
        return _check_keystone(conf)
    if any(str(conf[f"drivers:transport:{name}"].bind) not in _LOOPBACK for name in ("wsgi", "websocket")):
        details = "Callers are not authenticated ([DEFAULT] auth_strategy), and the server listens to other hosts."
        return Finding("Access", Result.WARNING, details)
    return Finding("Access", Result.SUCCESS)


def _check_keystone(conf: cfg.ConfigOpts) -> Finding:
    try:
        check_strategy(conf)
        tokens = TokenValidator(conf, system_clock)
        tokens.start()
        problem = tokens.check()
    except StartupError as exc:
        return Finding("Access", Result.FAILURE, str(exc))
    except KeystoneUnavailable as exc:
        return Finding("Access", Result.WARNING, f"Keystone does not answer: {exc.__cause__}")
    return Finding("Access", Result.SUCCESS) if problem is None else Finding("Access", Result.FAILURE, problem)


def render(findings: Iterable[Finding]) -> str:
    """The findings as a table."""
    rule = f"+{'-' * (_WIDTH - 2)}+"
    lines = [rule, _row("Upgrade Check Results"), rule]
    for finding in findings:
        lines += [_row(f"Check: {finding.check}"), _row(f"Result: {finding.result.name.capitalize()}")]
        lines += [_row(line) for line in textwrap.wrap(f"Details: {finding.details or 'None'}", _WIDTH - 4)]
        lines.append(rule)
    return "\n".join(lines)


def _row(text: str) -> str:
    return f"| {text:<{_WIDTH - 4}} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="zaqar-status",
        description="Check whether this release can run with the present configuration and stores.",
        epilog="The exit status of 'upgrade check' is 0 if all checks succeed, 1 with warnings, 2 with failures. "
        "--config-file and --config-dir are understood as well.",
    )
    parser.add_argument("category", choices=["upgrade"])
    parser.add_argument("action", choices=["check"])
    _, rest = parser.parse_known_args(argv)
    return failures.run("zaqar-status", lambda: _report(check_all(rest)))


def _report(findings: Sequence[Finding]) -> int:
    print(render(findings))
    return max(finding.result for finding in findings)


if __name__ == "__main__":
    sys.exit(main())
