# SPDX-License-Identifier: Apache-2.0
"""SQLite, the embedded database: connections, transactions and the turn to write that processes share."""
