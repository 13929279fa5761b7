# SPDX-License-Identifier: Apache-2.0
"""``zaqar-status upgrade check``: whether this release can run with the present configuration and stores."""

from __future__ import annotations

import argparse
import enum
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zaqar.cmd import configuration_checks, failures
from zaqar.cmd.configuration_checks.complaints import Complaint

_WIDTH = 76


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
    """Run all checks of the configuration. If it cannot be read, this is the only finding."""
    return [_summarise(title, found) for title, found in configuration_checks.check_all(argv).items()]


def _summarise(title: str, found: Sequence[Complaint]) -> Finding:
    """The finding about a title: the most severe of its complaints counts."""
    if not found:
        return Finding(title, Result.SUCCESS)
    result = Result.FAILURE if any(complaint.is_error for complaint in found) else Result.WARNING
    return Finding(title, result, " ".join(map(str, found)))


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
