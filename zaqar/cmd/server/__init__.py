# SPDX-License-Identifier: Apache-2.0
"""``zaqar-server``: its command line, the processes that it supervises, and the HTTP servers that it runs."""
