# SPDX-License-Identifier: Apache-2.0
"""The HTTP contract over the whole application in-process, on every store."""
