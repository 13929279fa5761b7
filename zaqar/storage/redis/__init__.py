# SPDX-License-Identifier: Apache-2.0
"""Messages and queues on Redis 6.2 or newer: one server, Sentinel, Cluster."""
