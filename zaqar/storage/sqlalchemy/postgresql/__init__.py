# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: connections and their pool, transactions, wake-ups, and the parts of the message store that use what only
PostgreSQL can do."""
