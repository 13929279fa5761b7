# SPDX-License-Identifier: Apache-2.0
"""SQL files are read into named statements. A name that does not fit fails when the module is imported."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zaqar.storage.sqlalchemy as driver
from tests.conformance.sqlalchemy.plans import queries_on
from zaqar.storage.sqlalchemy import queries
from zaqar.storage.sqlalchemy.queries import DIALECTS, Queries, QueryError, files_of, main, sections_of, texts_of

SOURCE = Path(driver.__file__).parent


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(driver.__path__, f"{driver.__name__}."):
        if ".migrations" not in found.name:
            yield found.name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of SQL files that a test writes."""
    for dialect in DIALECTS:
        (tmp_path / dialect).mkdir()
    monkeypatch.setattr(queries, "FOLDER", tmp_path)
    (tmp_path / "pieces.sql").write_text("-- piece: KEY\nuid = :uid AND state = :DEAD\n")
    for cached in (sections_of, queries._split):
        cached.cache_clear()
    yield tmp_path
    for cached in (sections_of, queries._split):
        cached.cache_clear()


def test_comments_are_removed_and_words_in_capitals_are_replaced(folder: Path) -> None:
    (folder / "a.sql").write_text(
        "-- About all.\n\n-- name: first\n-- About :this.\nSELECT 1 -- one\nFROM t\nWHERE :KEY AND a::int % 2 = 0\n\n"
        "-- name: second\n:HALF = :other\n\n-- piece: HALF\nSELECT 1\n"
    )
    assert texts_of("a", "sqlite") == {
        "first": "SELECT 1 FROM t WHERE uid = :uid AND state = 2 AND a::int % 2 = 0",
        "second": "SELECT 1 = :other",
    }
    assert texts_of("a", "postgresql") == {
        "first": "SELECT 1 FROM t WHERE uid = %(uid)s AND state = 2 AND a::int %% 2 = 0",
        "second": "SELECT 1 = %(other)s",
    }


def test_a_database_has_the_shared_statements_and_its_own(folder: Path) -> None:
    (folder / "a.sql").write_text("-- name: shared\nSELECT 1\n")
    (folder / "sqlite" / "a.sql").write_text("-- name: own\nSELECT 2\n")
    assert texts_of("a", "sqlite") == {"shared": "SELECT 1", "own": "SELECT 2"}
    assert texts_of("a", "postgresql") == {"shared": "SELECT 1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- name: there\nSELECT :NOWHERE\n", "a.sql: there has the unknown word :NOWHERE"),
        ("-- name: there\nSELECT 1\n-- name: there\nSELECT 1\n", "there twice"),
        ("-- name: there\nSELECT 1\n-- name: unused\nSELECT 1\n", "unused"),
        ("-- name: other\nSELECT 1\n", "other, there"),
        ("", "no file a.sql for sqlite"),
    ],
)
def test_files_that_do_not_fit_their_class_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "a.sql").write_text(text)
    with pytest.raises(QueryError, match=message):

        class Wrong(Queries, file="a"):
            there: str


def test_each_file_belongs_to_a_class_and_each_statement_is_used() -> None:
    source = {path: path.read_text() for path in SOURCE.rglob("*.py")}
    for name in modules():
        importlib.import_module(name)
    declared = {
        (each._file, dialect, name)
        for each in all_subclasses(Queries)
        for dialect, found in vars(each).get("_by_dialect", {}).items()
        for name in vars(found)
        if each.__module__.startswith(driver.__name__)
    }
    assert {(file, dialect) for file, dialect, _ in declared} == {
        (file, dialect) for dialect in DIALECTS for file in files_of(dialect)
    }
    everything = "\n".join(source.values())
    for _, _, name in declared:
        assert re.search(rf"\.{name}\b(?! import)", everything), f"{name} is declared and not used"


def all_subclasses(of: type[Queries]) -> Iterator[type[Queries]]:
    for each in of.__subclasses__():
        yield each
        yield from all_subclasses(each)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_statement_is_one_line_of_sql_without_words_in_capitals(dialect: str) -> None:
    found = queries_on(dialect)
    assert len(found) > 100
    for name, text in found.items():
        assert re.fullmatch(r"(SELECT|INSERT|UPDATE|DELETE|WITH) [^\n]+", text), name
        assert "--" not in text, name
        assert not re.search(r"(?<!:):[A-Z]", text), name


def test_each_piece_is_used() -> None:
    text = "\n".join(re.sub("--.*", "", path.read_text()) for path in queries.FOLDER.rglob("*.sql"))
    for path in queries.FOLDER.rglob("*.sql"):
        for piece in re.findall(r"^-- piece: (\w+)$", path.read_text(), re.MULTILINE):
            assert re.search(rf":{piece}\b", text), f"{path}: {piece}"


def test_each_constant_is_used() -> None:
    text = "\n".join(path.read_text() for path in queries.FOLDER.rglob("*.sql"))
    for word in queries.CONSTANTS:
        assert re.search(rf":{word}\b", text), word


def test_a_statement_can_be_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["queries", "sqlite", "queue_records.list_after"])
    main()
    printed = capsys.readouterr().out
    assert re.match(r"SELECT [^:]+\nWHERE project = :project", printed), printed


def test_the_documentation_shows_each_file() -> None:
    page = (SOURCE.parents[2] / "docs" / "contributor" / "sql.rst").read_text()
    for path in queries.FOLDER.rglob("*.sql"):
        assert f"../../{path.relative_to(SOURCE.parents[2])}\n" in page, path
