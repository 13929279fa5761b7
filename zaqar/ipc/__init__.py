# SPDX-License-Identifier: Apache-2.0
"""Communication between the processes of the service: Unix sockets, wakeups, and the protocol of pushes."""
