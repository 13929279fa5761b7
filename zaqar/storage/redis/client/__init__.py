# SPDX-License-Identifier: Apache-2.0
"""How the driver talks to Redis: connections, pools, Sentinel, Cluster, scripts; used by the parts and nobody else."""
