# SPDX-License-Identifier: Apache-2.0
"""How the stores use a database, the same for SQLite and PostgreSQL: transactions, errors, retries.

Each database has its own implementation in ``zaqar.storage.sqlalchemy.sqlite`` and ``.postgresql``.
"""
