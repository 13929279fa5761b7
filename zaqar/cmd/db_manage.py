# SPDX-License-Identifier: Apache-2.0
"""``zaqar-sql-db-manage``: moves the schema of the SQL databases that the configuration names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from zaqar import conf as configuration
from zaqar.cmd import failures
from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.states import HEAD

_STORES = ("management_store", "message_store")

OnDatabase = Callable[[Database, argparse.Namespace], bool]
"""A command on one database. Returns False if the database is not in the state that the command checks for."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    return failures.run("zaqar-sql-db-manage", lambda: _manage(options))


def _manage(options: argparse.Namespace) -> int:
    try:
        if options.on_scripts is not None:
            options.on_scripts(options)
            return 0
        return 0 if _on_each(_uris(options), options) else failures.FAILURE
    except CommandError as exc:
        raise StartupError(str(exc)) from exc


def _on_each(uris: Iterable[str], options: argparse.Namespace) -> bool:
    good = True
    for uri in uris:
        database = Database.open(uri, embedded=False)
        try:
            if database.is_in_memory:
                raise StartupError(
                    "A database in memory exists only in the process that made it: there is nothing to manage."
                )
            good &= options.on_database(database, options)
        finally:
            database.close()
    return good


def _uris(options: argparse.Namespace) -> list[str]:
    """The URI of each database once. Usually both stores are in the same database."""
    if options.uri:
        return list(dict.fromkeys(options.uri))
    arguments = [f"--config-file={path}" for path in options.config_file or ()]
    arguments += [f"--config-dir={path}" for path in options.config_dir or ()]
    conf = configuration.load(arguments)
    stores = [store for store in _STORES if conf.drivers[store] == "sqlalchemy"]
    if not stores:
        raise StartupError("[drivers] management_store, message_store: neither is sqlalchemy.")
    return list(dict.fromkeys(configuration.sqlalchemy_uri(conf, store)[0] for store in stores))


# -- commands on the scripts -------------------------------------------------------------------------------------------


def _history(options: argparse.Namespace) -> None:
    command.history(migration.config(), verbose=options.verbose)


def _branches(options: argparse.Namespace) -> None:
    command.branches(migration.config(), verbose=options.verbose)


# -- commands on each database -----------------------------------------------------------------------------------------


def _current(database: Database, options: argparse.Namespace) -> bool:
    found = migration.current(database) or "none"
    print(f"{database.name}: {found}{' (head)' if found == HEAD else ''}")
    return True


def _check(database: Database, options: argparse.Namespace) -> bool:
    heads = ScriptDirectory.from_config(migration.config()).get_heads()
    if len(heads) != 1:
        raise StartupError(f"The migrations have several heads: {', '.join(sorted(heads))}.")
    found = migration.current(database)
    if found == heads[0]:
        print(f"{database.name}: up to date")
        return True
    print(f"{database.name}: {found or 'no schema'}, but {heads[0]} is needed: run zaqar-sql-db-manage upgrade")
    return False


def _upgrade(database: Database, options: argparse.Namespace) -> bool:
    if options.revision == "head":
        newest = ScriptDirectory.from_config(migration.config()).get_current_head()
        migration.migrate(database, lambda found: found == newest)
    else:
        migration.change(database, lambda connection: command.upgrade(migration.config(connection), options.revision))
    return _current(database, options)


def _downgrade(database: Database, options: argparse.Namespace) -> bool:
    migration.change(database, lambda connection: command.downgrade(migration.config(connection), options.revision))
    return _current(database, options)


def _stamp(database: Database, options: argparse.Namespace) -> bool:
    with database.change_schema() as connection:
        command.stamp(migration.config(connection), options.revision)
    return _current(database, options)


def _revision(database: Database, options: argparse.Namespace) -> bool:
    with database.change_schema() as connection:
        command.revision(
            migration.config(connection),
            message=options.message,
            autogenerate=options.autogenerate,
            rev_id=options.rev_id,
        )
    return True


# -- the command line --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-sql-db-manage",
        description="Show and move the schema of the SQL databases that the configuration names. The embedded database "
        "in the state directory is upgraded by the service itself.",
    )
    parser.add_argument("--config-file", action="append", metavar="PATH", help="as for zaqar-server")
    parser.add_argument("--config-dir", action="append", metavar="PATH", help="as for zaqar-server")
    parser.add_argument(
        "--uri", action="append", help="this database instead, such as sqlite:////var/lib/zaqar/zaqar.db"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, about: str, *, on_database: OnDatabase | None = None, on_scripts: object = None
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(on_database=on_database, on_scripts=on_scripts)
        return added

    add("current", "show the revision of each database", on_database=_current)
    add("history", "list the revisions", on_scripts=_history).add_argument("-v", "--verbose", action="store_true")
    add("branches", "list where revisions branch", on_scripts=_branches).add_argument(
        "-v", "--verbose", action="store_true"
    )
    add("check_migration", "fail unless each database is at the one head of the revisions", on_database=_check)
    add("upgrade", "upgrade to a revision", on_database=_upgrade).add_argument("revision", nargs="?", default="head")
    add(
        "downgrade",
        "downgrade to a revision, or to base for none; removed tables and columns lose their data",
        on_database=_downgrade,
    ).add_argument("revision")
    add("stamp", "write a revision into the database, without changing its schema", on_database=_stamp).add_argument(
        "revision"
    )
    revision = add("revision", "make a new revision, for developers of the service", on_database=_revision)
    revision.add_argument("-m", "--message", required=True)
    revision.add_argument(
        "--autogenerate", action="store_true", help="fill it with the difference between schema.py and the database"
    )
    revision.add_argument("--rev-id", help="the number of the revision (default: random)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
