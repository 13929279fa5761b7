# SPDX-License-Identifier: Apache-2.0
"""The HTTP contract of the whole application in-process, on memory, PostgreSQL or each store."""
