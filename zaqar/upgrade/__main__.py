# SPDX-License-Identifier: Apache-2.0
"""The command line of ``python -m zaqar.upgrade``."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from zaqar.upgrade.copying import Copied, QueueCopy, Settings
from zaqar.upgrade.progress import OtherServices, Progress
from zaqar.upgrade.service import Refused, Service, Unavailable, report
from zaqar.upgrade.verification import compare

COMPLETE = 0
INCOMPLETE = 1
STOPPED = 2


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m zaqar.upgrade",
        description="Copy the queues, messages and subscriptions of one project from one messaging service to another, "
        "over HTTP. Nothing is changed on the source. Run it again to continue, or to copy messages that came later.",
        epilog=f"Exit status: {COMPLETE} if everything was copied, {INCOMPLETE} if something was left behind, "
        f"{STOPPED} if a service did not answer or refused the caller.",
    )
    parser.add_argument("source", help="URL of the old service, such as http://old.example.org:8888")
    parser.add_argument("target", help="URL of the new service")
    parser.add_argument("--project", metavar="ID", help="send this X-Project-ID, if the services do not use Keystone")
    parser.add_argument("--source-token", type=Path, metavar="FILE", help="file with a token of the project")
    parser.add_argument("--target-token", type=Path, metavar="FILE", help="the same for the target")
    parser.add_argument(
        "--progress",
        type=Path,
        default=Path("zaqar-upgrade.db"),
        metavar="FILE",
        help="remember the copied messages here, in a file for each project (default: %(default)s)",
    )
    parser.add_argument("--queue", action="append", metavar="NAME", help="copy this queue only; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="read the source and count; write nothing")
    parser.add_argument("--without-subscriptions", action="store_true", help="copy queues and messages only")
    parser.add_argument("--without-flavors", action="store_true", help="leave out _flavor of queues")
    parser.add_argument(
        "--page", type=int, default=20, metavar="N", help="messages in one request; both services must allow it"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process. Returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return run(options)
    except (Refused, Unavailable, OtherServices, ValueError, OSError, sqlite3.Error) as exc:
        report(f"Stopped: {exc}. Run the same command again to continue.")
        return STOPPED


def run(options: argparse.Namespace) -> int:
    """Copy and compare the queues, one after the other, and print a line for each."""
    progress = Progress(None if options.dry_run else options.progress, source=options.source, target=options.target)
    try:
        source = Service(
            options.source, project=options.project, client_id=progress.client_id, token_file=options.source_token
        )
        target = Service(
            options.target, project=options.project, client_id=progress.client_id, token_file=options.target_token
        )
        settings = Settings(
            project=options.project or "",
            dry_run=options.dry_run,
            flavors=not options.without_flavors,
            subscriptions=not options.without_subscriptions,
            page=options.page,
        )
        copy = QueueCopy(source, target, progress, settings)
        results = [copy_one(copy, progress, queue, settings) for queue in options.queue or names_of(source)]
    finally:
        progress.close()
    is_complete = all(result.is_complete for result in results)
    left = "complete" if is_complete else "not complete, see the lines above"
    copied = sum(result.copied for result in results)
    print(f"{len(results)} queues, {copied} messages {done_in(settings)}: {left}")
    return COMPLETE if is_complete else INCOMPLETE


def copy_one(copy: QueueCopy, progress: Progress, queue: str, settings: Settings) -> Copied:
    """Copy a queue, compare it with its copy unless this is a dry run, and print the result."""
    result = copy.copy(queue)
    if not settings.dry_run and (result.copied or result.copied_before):
        source, target = copy.source_pages(queue), copy.target_pages(queue)
        found = compare(progress, settings.project, queue, source=source, target=target, refused=result.refused)
        if found.missing:
            result.leave(f"{found.missing} messages of the source are not on the target; consumers may have taken them")
        if found.disordered:
            result.leave(f"{found.disordered} messages are in another order on the target")
    print(line_of(result, settings), flush=True)
    for note in result.notes:
        report(f"  {queue}: {note}")
    return result


def done_in(settings: Settings) -> str:
    """What happens to messages in this run, for the output."""
    return "to copy" if settings.dry_run else "copied"


def line_of(result: Copied, settings: Settings) -> str:
    """The line of a queue in the output."""
    return (
        f"{result.queue}: {result.read} messages read, {result.copied} {done_in(settings)}, "
        f"{result.copied_before} copied before, {result.expired} expired, {len(result.refused)} refused; "
        f"{result.subscriptions} subscriptions"
    )


def names_of(service: Service) -> Iterator[str]:
    """The names of all queues of the project, while they are listed."""
    for page in service.pages("queues", query={"limit": "20"}):
        for queue in page:
            yield queue["name"]


if __name__ == "__main__":
    sys.exit(main())
