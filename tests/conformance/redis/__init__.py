# SPDX-License-Identifier: Apache-2.0
"""What is special about Redis, on real servers: round trips, faults, deployments, memory."""
