# SPDX-License-Identifier: Apache-2.0
"""SQLite, the embedded database: connections, transactions, the turn to write that processes share, and the parts of
the message store that differ from those of PostgreSQL."""
