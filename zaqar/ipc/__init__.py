# SPDX-License-Identifier: Apache-2.0
"""How the processes of the service reach each other: Unix sockets, wakeups, and the protocol of pushes."""
