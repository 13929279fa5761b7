# SPDX-License-Identifier: Apache-2.0
"""What is special about the SQL driver; what it has in common with others is in ``tests/conformance``."""
