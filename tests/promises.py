# SPDX-License-Identifier: Apache-2.0
"""The table of promises and the test modules that show them, and a list of tests that were removed since a revision.

``python -m tests.promises`` prints the table with the number of test functions of each promise. If it is called with a
revision, it also prints the test functions of that revision that this tree has under no name. A test in tests/budgets
checks that each entry names a module with tests, and that each module of the conformance suite has its entry.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROMISES: dict[str, tuple[str, ...]] = {
    "1 acknowledged means stored": (
        "conformance/test_acknowledged.py",
        "conformance/test_kill.py",
        "conformance/test_one_step.py",
        "conformance/test_history.py",
        "conformance/test_large_posts.py",
        "conformance/redis/test_durability.py",
        "conformance/redis/test_full_server.py",
        "conformance/sqlalchemy/test_full_disk.py",
        "conformance/mongodb/test_failover.py",
        "conformance/mongodb/test_transactions.py",
        "acceptance/test_crash.py",
        "acceptance/test_faults.py",
    ),
    "2 one order per queue": ("conformance/test_one_order.py", "conformance/mongodb/test_interleaved.py"),
    "3 paging skips nothing and repeats nothing": ("conformance/test_paging.py",),
    "4 at most one live claim": ("conformance/test_one_live_claim.py", "conformance/test_claims.py"),
    "5 timers are exact": ("conformance/test_timers.py", "conformance/test_claim_timers.py"),
    "6 deleted stays deleted": ("conformance/test_deleted.py",),
    "7 dead letters": (
        "conformance/test_dead_letters.py",
        "conformance/test_dead_letters_between_stores.py",
        "unit/service/test_dead_letters.py",
    ),
    "8 isolation": (
        "conformance/test_isolation.py",
        "acceptance/test_neighbours.py",
        "acceptance/test_limits.py",
        "acceptance/test_blocking.py",
        "acceptance/test_hostile.py",
        "acceptance/test_websocket_hostile.py",
    ),
    "9 notifications are at-least-once": (
        "conformance/test_outbox.py",
        "conformance/test_deliveries.py",
        "conformance/test_concurrent_deliveries.py",
        "conformance/test_delivery_log.py",
        "conformance/test_random_deliveries.py",
        "conformance/test_dropped_subscriptions.py",
        "conformance/test_restored_order.py",
        "conformance/test_delivery_order.py",
        "acceptance/test_notifications.py",
        "acceptance/test_websocket_faults.py",
        "acceptance/test_websocket_pushes.py",
    ),
    "10 statistics are true": ("conformance/test_statistics.py", "conformance/sqlalchemy/test_counters.py"),
    "11 no input breaks it": (
        "api/test_parameters.py",
        "api/test_fuzz.py",
        "api/test_websocket_fuzz.py",
        "unit/transport/websocket/test_fuzz.py",
        "unit/schemas/test_strict_json.py",
    ),
    "12 a store that is away": (
        "conformance/test_outages.py",
        "conformance/test_connections.py",
        "unit/service/test_store_guard.py",
        "unit/service/test_health.py",
        "acceptance/test_pools.py",
    ),
    "13 a stream resumes without a gap": (
        "conformance/test_streams.py",
        "conformance/test_queue_positions.py",
        "unit/service/test_stream_model.py",
        "api/test_event_streams.py",
        "acceptance/test_streams_live.py",
        "acceptance/test_websocket_streams.py",
    ),
    "the fence: nobody acts on a stale queue": ("conformance/test_fences.py", "api/test_workers.py"),
    "any sequence of operations is that of the model": ("conformance/test_random_operations.py",),
    "what monitoring and limits read": ("conformance/test_trace_contexts.py", "conformance/test_usage.py"),
    "requests that wait": (
        "api/test_waits.py",
        "conformance/waiting/test_processes.py",
        "conformance/waiting/test_websocket.py",
        "acceptance/test_waiting_live.py",
    ),
    "the HTTP contract": (
        "api/test_queues.py",
        "api/test_messages.py",
        "api/test_claims.py",
        "api/test_topics.py",
        "api/test_subscriptions.py",
        "api/test_deliveries.py",
        "api/test_pools.py",
        "api/test_flavors.py",
        "api/test_openapi.py",
    ),
    "both transports agree": ("api/test_transports_agree.py", "api/test_deployments_agree.py"),
    "access": ("api/test_keystone.py", "api/test_policy.py", "api/test_share.py", "api/test_trusts.py"),
    "encryption": ("api/test_encryption.py", "api/test_encryption_dump.py", "conformance/test_sealed_bodies.py"),
    "clients run unmodified": (
        "acceptance/test_clients_tempest.py",
        "acceptance/test_clients_zaqarclient.py",
        "acceptance/test_clients_openstacksdk.py",
    ),
    "commands and processes": (
        "acceptance/commands/test_status.py",
        "acceptance/commands/test_check.py",
        "acceptance/test_reload.py",
        "conformance/test_open_as_it_is.py",
        "acceptance/commands/test_gc.py",
        "acceptance/commands/test_db_manage.py",
        "acceptance/commands/test_signals.py",
        "acceptance/commands/test_supervisor.py",
        "acceptance/commands/test_preflight.py",
        "acceptance/commands/test_policy_tools.py",
    ),
    "other servers, TLS, logins and poolers": (
        "conformance/redis/test_secured_servers.py",
        "conformance/redis/test_deployments.py",
        "conformance/mongodb/test_deployments.py",
        "conformance/sqlalchemy/test_postgresql_deployments.py",
    ),
    "backups and upgrades": (
        "acceptance/test_backup.py",
        "api/test_restored_stores.py",
        "conformance/redis/test_backup.py",
        "conformance/sqlalchemy/test_rolling_upgrade.py",
        "conformance/sqlalchemy/test_migration.py",
    ),
    "costs do not grow": (
        "budgets/test_path.py",
        "budgets/test_round_trips.py",
        "conformance/redis/test_cost_at_any_size.py",
        "conformance/mongodb/test_cost_at_any_size.py",
        "conformance/sqlalchemy/test_postgresql_cost_at_any_size.py",
        "conformance/sqlalchemy/test_statements.py",
    ),
}
"""The numbered promises of a store and of the service, then others, with their test modules below ``tests``."""


def functions_of(source: str) -> Iterator[str]:
    """The names of the test functions and test classes of a module."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name
        elif isinstance(node, ast.ClassDef | ast.Assign) and ast.unparse(node).startswith(("class Test", "Test")):
            yield node.name if isinstance(node, ast.ClassDef) else ast.unparse(node.targets[0])


def functions_now() -> dict[str, set[str]]:
    """Modules below ``tests``, with their test functions."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return {str(path.relative_to(ROOT / "tests")): set(functions_of(path.read_text())) for path in paths}


def functions_at(revision: str) -> dict[str, set[str]]:
    """The same in a revision of the repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout

    names = git("ls-tree", "-r", "--name-only", revision, "tests").splitlines()
    modules = [name for name in names if name.endswith(".py") and Path(name).name.startswith("test_")]
    return {name.removeprefix("tests/"): set(functions_of(git("show", f"{revision}:{name}"))) for name in modules}


def main(arguments: list[str]) -> None:
    """Print the table, and the tests of a revision that are gone."""
    now = functions_now()
    for promise, modules in PROMISES.items():
        print(f"{sum(len(now[module]) for module in modules):4}  {promise}")
    print(f"{sum(len(names) for names in now.values()):4}  test functions in all")
    for revision in arguments:
        before = functions_at(revision)
        count = sum(len(names) for names in before.values())
        print(f"{count:4}  test functions in {revision}, of which these are gone or renamed:")
        kept = {name for names in now.values() for name in names}
        for module, names in before.items():
            for name in sorted(names - kept):
                print(f"      {module}::{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
