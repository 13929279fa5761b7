# SPDX-License-Identifier: Apache-2.0
"""Sizes and imports, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zaqar

ROOT = Path(zaqar.__file__).parent
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 50

# The parts of the project from which each part may import, besides its own modules. The first entry that is a prefix of
# the module applies.
FOUNDATION = {"zaqar", "zaqar.bounded_cache", "zaqar.uris", "zaqar.model", "zaqar.errors", "zaqar.clock"}
FOUNDATION |= {"zaqar.context", "zaqar.limits"}
MAY_IMPORT: dict[str, set[str]] = {
    "zaqar.bounded_cache": set(),
    "zaqar.uris": set(),
    "zaqar.model": {"zaqar.uris"},
    "zaqar.errors": set(),
    "zaqar.clock": set(),
    "zaqar.context": set(),
    "zaqar.limits": {"zaqar.errors"},
    "zaqar.entry_points": {"zaqar.errors"},
    "zaqar.private_files": {"zaqar.errors"},
    "zaqar.daemon_threads": set(),
    "zaqar.ipc": {"zaqar.private_files", "zaqar.errors"},
    "zaqar.encryption": {"zaqar.model", "zaqar.errors"},
    "zaqar.conf": {"zaqar", "zaqar.private_files", "zaqar.errors", "zaqar.uris"},
    "zaqar.policies": {"zaqar", "zaqar.bounded_cache", "zaqar.conf", "zaqar.errors", "zaqar.context"}
    | {"zaqar.model", "zaqar.private_files"},
    "zaqar.access": {"zaqar", "zaqar.bounded_cache", "zaqar.clock", "zaqar.conf", "zaqar.context", "zaqar.errors"}
    | {"zaqar.entry_points"},
    "zaqar.schemas": FOUNDATION | {"zaqar.tracing.context"},
    "zaqar.storage.base": {"zaqar.model", "zaqar.errors"},
    "zaqar.storage.registry": FOUNDATION | {"zaqar.entry_points", "zaqar.conf", "zaqar.storage.base"},
    "zaqar.storage.pools": {"zaqar.storage.base", "zaqar.model", "zaqar.errors"},
    # It counts and traces the calls of every driver. No driver knows it.
    "zaqar.storage.observed": FOUNDATION | {"zaqar.storage.base", "zaqar.metrics", "zaqar.tracing"},
    "zaqar.metrics": FOUNDATION | {"zaqar.private_files", "zaqar.conf", "zaqar.storage.base", "zaqar.storage.pools"},
    "zaqar.tracing": FOUNDATION | {"zaqar.conf"},
    "zaqar.logs": FOUNDATION | {"zaqar.conf", "zaqar.metrics"},
    "zaqar.storage": {"zaqar", "zaqar.private_files", "zaqar.storage.base"}
    | {"zaqar.model", "zaqar.errors", "zaqar.uris"},
    "zaqar.waiting": FOUNDATION | {"zaqar.ipc.wakeup_socket", "zaqar.storage.base", "zaqar.storage.pools"},
    "zaqar.quotas": FOUNDATION
    | {"zaqar.conf", "zaqar.metrics", "zaqar.schemas.subscribers", "zaqar.storage.base", "zaqar.storage.pools"},
    "zaqar.stages": FOUNDATION | {"zaqar.ipc.wakeup_socket", "zaqar.conf", "zaqar.entry_points"},
    "zaqar.service.staged.pipelines": FOUNDATION | {"zaqar.entry_points", "zaqar.service", "zaqar.stages"},
    "zaqar.service": FOUNDATION
    | {"zaqar.storage.base", "zaqar.storage.pools", "zaqar.stages", "zaqar.schemas", "zaqar.waiting"}
    | {"zaqar.access.signed_urls", "zaqar.encryption", "zaqar.metrics", "zaqar.tracing", "zaqar.quotas"}
    # A subscription is checked when it is made, by the policy that also checks each connect, and gets its secret.
    | {"zaqar.notification.webhook_targets", "zaqar.notification.webhook_signatures"},
    "zaqar.notification.webhook_targets": {"zaqar.daemon_threads", "zaqar.errors"},
    "zaqar.notification.webhook_signatures": set(),
    "zaqar.notification": FOUNDATION
    | {"zaqar.storage.base", "zaqar.storage.pools", "zaqar.schemas", "zaqar.conf", "zaqar.ipc"}
    | {"zaqar.daemon_threads", "zaqar.access.signed_urls", "zaqar.encryption"}
    | {"zaqar.access.trusts", "zaqar.access.trust_answers", "zaqar.metrics", "zaqar.tracing", "zaqar.logs"},
    "zaqar.benchmarks": set(),
    "zaqar.upgrade": set(),
    "zaqar.transport": FOUNDATION
    | {"zaqar.service", "zaqar.schemas", "zaqar.policies", "zaqar.app", "zaqar.access"}
    | {"zaqar.ipc", "zaqar.waiting", "zaqar.metrics", "zaqar.tracing", "zaqar.logs", "zaqar.quotas"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py")) if "versions" not in path.parts}


@pytest.fixture(scope="module")
def trees() -> Iterator[dict[str, ast.Module]]:
    """The syntax tree of each module of the project."""
    trees = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
    yield trees
    trees.clear()


def imports_of(tree: ast.Module) -> Iterator[str]:
    """The project's modules that a file imports, each by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "zaqar")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zaqar":
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in FILES else node.module


def imports_at_start(module: str, tree: ast.Module) -> set[str]:
    """The project's modules that are imported while a module is imported.

    Imports of a function come later, and those under TYPE_CHECKING never.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            longer = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(longer & FILES.keys() or {node.module})
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr))
        elif isinstance(node, ast.Module | ast.ExceptHandler | ast.match_case):
            pending.extend(ast.iter_child_nodes(node))
    return (found & FILES.keys()) - {module}


def belongs(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def is_allowed(module: str, imported: str) -> bool:
    """Whether the part of a module may import another module."""
    part = next((part for part in MAY_IMPORT if belongs(module, part)), None)
    if part is None:
        # app, wsgi and the commands put the parts together; only app may name a concrete driver.
        return True
    # Each driver is a part of its own, though all lie in one folder.
    own = ".".join(module.split(".")[:3]) if part == "zaqar.storage" else part
    return belongs(imported, own) or any(
        imported == each if each == "zaqar" else belongs(imported, each) for each in MAY_IMPORT[part]
    )


def test_each_module_belongs_to_a_part() -> None:
    parts = {*MAY_IMPORT, "zaqar.app", "zaqar.wsgi", "zaqar.cmd"}
    without = [module for module in FILES if not any(belongs(module, part) for part in parts)]
    assert without == ["zaqar"], "give these modules an entry in MAY_IMPORT"


def test_a_module_imports_only_from_the_parts_that_it_may_use(trees: dict[str, ast.Module]) -> None:
    refused = [
        f"{module} must not import {imported}"
        for module, tree in trees.items()
        for imported in imports_of(tree)
        if not is_allowed(module, imported)
    ]
    assert not refused


def test_there_are_no_import_cycles(trees: dict[str, ast.Module]) -> None:
    """Every module can be read after those that it imports."""
    imports = {module: imports_at_start(module, tree) for module, tree in trees.items()}
    while ready := [module for module, needed in imports.items() if not needed & imports.keys()]:
        for module in ready:
            del imports[module]
    assert not imports, "modules in an import cycle, or importing one"


def test_the_service_does_not_import_the_benchmarks(trees: dict[str, ast.Module]) -> None:
    """The service works without the benchmarks. The test of imports shows that they import nothing of the service."""
    importing = [
        module
        for module, tree in trees.items()
        if not belongs(module, "zaqar.benchmarks")
        and any(belongs(each, "zaqar.benchmarks") for each in imports_of(tree))
    ]
    assert not importing


BUILD_BACKGROUND_PART = """
import sys
from zaqar import app, conf
from zaqar.cmd import gc, notifier
parts = app.build(conf.load(["--config-file", sys.argv[1]]), part="notifier")
app.build_notifier(parts)
print(*sys.modules)
"""


def test_the_notifier_and_the_sweeper_load_only_the_libraries_that_they_use(tmp_path: Path) -> None:
    """Each process takes half a second of CPU to start, nearly all of it to import modules."""
    config = tmp_path / "zaqar.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {tmp_path}\n")
    command = [sys.executable, "-c", BUILD_BACKGROUND_PART, str(config)]
    # The first run makes the database, and so needs the tables and Alembic.
    first, loaded = (set(subprocess.check_output(command, text=True).split()) for _ in range(2))
    assert {"zaqar.storage.sqlalchemy.schema", "alembic"} <= first - loaded
    assert {"zaqar.storage.sqlalchemy.store", "zaqar.notification.pump"} <= loaded
    assert not loaded & {"jsonschema", "requests", "keystoneauth1", "keystonemiddleware", "falcon", "gevent"}
    assert not [name for name in loaded if belongs(name, "zaqar.policies") or belongs(name, "zaqar.transport")]


def test_files_and_functions_are_short(trees: dict[str, ast.Module]) -> None:
    lines = {module: path.read_text().count("\n") for module, path in FILES.items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES_OF_A_FILE} == {}
    long = [
        f"{module}: {node.name} has {length} lines"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert not long


def test_no_module_has_a_catch_all_name() -> None:
    refused = {"util", "helper", "manager", "handler", "common"}
    assert [module for module, path in FILES.items() if path.stem.removesuffix("s") in refused] == []


def test_responders_are_short(trees: dict[str, ast.Module]) -> None:
    """A responder only translates: few statements, and no try."""
    for module, tree in trees.items():
        if module.rpartition(".")[0] != "zaqar.transport.wsgi":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("on_"):
                assert not any(isinstance(inner, ast.Try) for inner in ast.walk(node)), f"{module}: {node.name}"
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert len(node.body) <= 7, f"{module}: {node.name} has {len(node.body)} statements, {lines} lines"
