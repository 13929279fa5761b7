# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: connections, transactions and wake-ups."""
