# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench``: measure a server that speaks the Messaging API v2, from outside.

::

    zaqar-bench [options]         load: producers, consumers and observers at the same time
    zaqar-bench rows [options]    single operations one after the other, on one server or on several in turn
    zaqar-bench flat [options]    each operation on queues with few and with many messages of each state

Give the process ids of the server with --pid, right after its --url, to see the CPU time of a request.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zaqar.benchmarks import flat, load, report, rows
from zaqar.benchmarks.figures import Figures
from zaqar.benchmarks.http_client import Connection, Endpoint
from zaqar.benchmarks.request_encoder import MESSAGE_TTL, Draft, RequestEncoder, make_body, make_name
from zaqar.benchmarks.subject import DEFAULT_URL, Subject

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns exit status 0 if at least one request was measured and none failed, otherwise 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    modes: dict[str, tuple[Callable[[], argparse.ArgumentParser], Command]] = {
        "load": (_load_parser, _run_load),
        "rows": (_rows_parser, _run_rows),
        "flat": (_flat_parser, _run_flat),
    }
    mode = arguments.pop(0) if arguments and arguments[0] in modes else "load"
    make_parser, command = modes[mode]
    parsed = make_parser().parse_args(arguments)
    parsed.subjects = parsed.subjects or [_subject(DEFAULT_URL)]
    try:
        return command(parsed)
    except (OSError, RuntimeError) as exc:
        print(f"zaqar-bench: {exc}", file=sys.stderr)
        return 1


# -- the command line ----------------------------------------------------------------------------------------------


class _AddSubject(argparse.Action):
    """Makes ``--url`` and ``--plain-url`` add one more server to be measured."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        try:
            subject = _subject(values, plain=option == "--plain-url")
        except ValueError as exc:
            raise argparse.ArgumentError(self, str(exc)) from exc
        namespace.subjects = [*(namespace.subjects or []), subject]


class _DescribeSubject(argparse.Action):
    """Makes an option apply to the server that was named last, or to the default server."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        subjects = namespace.subjects or [_subject(DEFAULT_URL)]
        value = tuple(values) if isinstance(values, list) else values
        namespace.subjects = [*subjects[:-1], replace(subjects[-1], **{self.dest: value})]


def _subject(url: str, *, plain: bool = False) -> Subject:
    return Subject(Endpoint.parse(url), url.partition("://")[2].rstrip("/"), plain)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-bench",
        description=description,
        epilog=__doc__.partition("::")[2] if __doc__ else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(subjects=None)
    add = parser.add_argument
    suppress = argparse.SUPPRESS
    add("--url", action=_AddSubject, default=suppress, help=f"a server that speaks the API (default {DEFAULT_URL})")
    add("--pid", dest="pids", type=int, nargs="+", action=_DescribeSubject, default=suppress, metavar="N",
        help="processes of that server; their descendants count too")  # fmt: skip
    add("--store-pid", dest="store_pids", type=int, nargs="+", action=_DescribeSubject, default=suppress, metavar="N",
        help="processes of the store that it uses, counted separately")  # fmt: skip
    add("--name", action=_DescribeSubject, default=suppress, help="the name of that server in the report")
    add("--project", default="bench", help="the X-Project-ID (default bench)")
    add("--token", help="an X-Auth-Token")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("-m", "--messages", type=_read_drafts, default=_default_drafts(), metavar="FILE",
        help="JSON array of messages to post: objects with a 'body' and perhaps 'ttl' and 'delay', or only bodies "
        "(default: one object of 1 KiB)")  # fmt: skip
    return parser


def _load_parser() -> argparse.ArgumentParser:
    parser = _parser("Producers, consumers and observers at the same time.")
    add = parser.add_argument
    for letter, role in (("p", "producer"), ("c", "consumer"), ("o", "observer")):
        add(f"-{letter}p", f"--{role}-processes", type=_count, default=1, metavar="N", help="(default 1)")
        add(f"-{letter}w", f"--{role}-workers", type=_count, default=2, metavar="N",
            help=f"{role}s (threads) in each process (default 2)")  # fmt: skip
    add("-t", "--time", type=float, default=5.0, metavar="SECONDS", help="how long (default 5)")
    add(
        "-q", "--queues", type=_read_queues, metavar="FILE", help="JSON array of the names of queues to use and to keep"
    )
    add("-qno", "--num-queues", type=_positive, default=4, metavar="N",
        help="number of queues to create, and to delete in the end (default 4)")  # fmt: skip
    add("-cl", "--claim-limit", type=_positive, default=10, metavar="N", help="messages per claim (default 10)")
    add("--noverbose", action="store_true", help="print the report only")
    return parser


def _rows_parser() -> argparse.ArgumentParser:
    parser = _parser("Single operations one after the other; with several servers each round takes them in turn.")
    parser.add_argument("--plain-url", action=_AddSubject, default=argparse.SUPPRESS, metavar="URL",
                        help="a server to compare with that may answer anything, such as a bare one")  # fmt: skip
    parser.add_argument("--rounds", type=_positive, default=5, help="number of rounds; shows medians (default 5)")
    parser.add_argument("--count", type=_positive, default=200, help="requests per row and round (default 200)")
    return parser


def _flat_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "Each operation on queues with few and with many messages that are ready, claimed, delayed or expired."
    )
    extent = flat.Extent()
    for name, text in (
        ("few", "messages in the small queues"),
        ("many", "messages in the large queues"),
        ("fill-bytes", "bytes of the body of each of these messages"),
        ("rounds", "number of rounds; medians are shown"),
        ("count", "requests per operation and round"),
    ):
        default = getattr(extent, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=_positive, default=default, help=f"{text} (default {default})")
    parser.add_argument("--noverbose", action="store_true", help="print the report only")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _default_drafts() -> list[Draft]:
    return [{"body": make_body(), "ttl": MESSAGE_TTL}]


def _read_drafts(path: str) -> list[Draft]:
    found = _read_array(path)
    return [each if isinstance(each, dict) and "body" in each else {"body": each} for each in found]


def _read_queues(path: str) -> list[str]:
    names = _read_array(path)
    if not all(isinstance(name, str) for name in names):
        raise argparse.ArgumentTypeError(f"{path}: must hold names of queues")
    return names


def _read_array(path: str) -> list[Any]:
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as exc:
        raise argparse.ArgumentTypeError(f"{path}: {exc}") from exc
    if not isinstance(found, list) or not found:
        raise argparse.ArgumentTypeError(f"{path}: must be a JSON array that is not empty")
    return found


# -- the commands --------------------------------------------------------------------------------------------------


def _run_load(options: argparse.Namespace) -> int:
    subject = _only(options.subjects)
    made_up = [] if options.queues else [make_name() for _ in range(options.num_queues)]
    given = vars(options)
    plan = load.Plan(
        subject=subject,
        queues=options.queues or made_up,
        drafts=options.messages,
        seconds=options.time,
        crews={role: load.Crew(given[f"{role}_processes"], given[f"{role}_workers"]) for role in load.ROLES},
        claim_limit=options.claim_limit,
        project=options.project,
        token=options.token,
    )
    if not options.noverbose:
        _progress(f"{options.time:g} s of load on {subject.name}, {len(plan.queues)} queues")
    outcome = load.run(plan)
    encoder, connection = RequestEncoder(subject.endpoint, options.project, options.token), Connection(subject.endpoint)
    for queue in made_up:
        connection.exchange(encoder.drop(queue))
    connection.close()
    _print(options, asdict(outcome), report.load_lines(outcome))
    return _status(outcome.operations.values())


def _run_rows(options: argparse.Namespace) -> int:
    measured = rows.measure(
        options.subjects,
        drafts=options.messages,
        rounds=options.rounds,
        count=options.count,
        project=options.project,
        token=options.token,
    )
    names = [subject.name for subject in options.subjects]
    found = {"servers": names, "rows": [asdict(row) for row in measured]}
    _print(options, found, report.row_lines(options.subjects, measured))
    return _status(figures for row in measured for figures in row.figures)


def _run_flat(options: argparse.Namespace) -> int:
    extent = flat.Extent(options.few, options.many, options.fill_bytes, options.rounds, options.count)
    steps = flat.measure(
        _only(options.subjects),
        extent=extent,
        project=options.project,
        token=options.token,
        report=_silent if options.noverbose else _progress,
    )
    _print(options, [asdict(step) for step in steps], report.flat_lines(steps, extent.few, extent.many))
    return _status(figures for step in steps for figures in (step.few, step.many))


def _only(subjects: Sequence[Subject]) -> Subject:
    if len(subjects) > 1:
        raise RuntimeError("this mode measures one server; 'rows' compares several")
    return subjects[0]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """Drop a line of progress, for ``--noverbose``."""


def _print(options: argparse.Namespace, found: object, lines: Iterator[str]) -> None:
    if options.json:
        print(json.dumps({"machine": machine(), "measured": found}, indent=1))
        return
    print(", ".join(f"{what}: {value}" for what, value in machine().items()))
    for line in lines:
        print(line)


def machine() -> dict[str, str | int | None]:
    """The machine on which the figures were measured, for the report."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "python": platform.python_version(), "cores": os.cpu_count()}


def _status(measured: Iterable[Figures]) -> int:
    every = list(measured)
    return 0 if every and all(each.requests and not each.errors for each in every) else 1


if __name__ == "__main__":
    sys.exit(main())
