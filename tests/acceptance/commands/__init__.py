# SPDX-License-Identifier: Apache-2.0
"""The commands of the service and of oslo.policy, on database files and with the processes that they start."""
