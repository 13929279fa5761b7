# SPDX-License-Identifier: Apache-2.0
"""The stores on SQL databases: SQLite, the embedded default, and PostgreSQL.

``store.py`` and ``management.py`` are the two stores; each part has a module, and its statements are in the file of the
same name in ``sql``. ``client`` is the interface of a database, ``sqlite`` and ``postgresql`` implement it and have the
parts in which the two databases differ. ``schema.py`` has the tables, ``migrations`` the way from one revision of them
to the next.

SQLAlchemy serves the schema and its migrations only. The stores run the text of the SQL files on the connection of the
database's library, because executing through SQLAlchemy costs more than the whole statement does in SQLite.
"""
