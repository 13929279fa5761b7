# SPDX-License-Identifier: Apache-2.0
"""The stores on SQL databases: SQLite, the embedded default, and PostgreSQL.

Statements are defined once with SQLAlchemy Core (``statements``), compiled to text when a store is made, and run on the
driver's own connection: executing through Core costs more than the whole statement does in SQLite.
"""
