# SPDX-License-Identifier: Apache-2.0
"""Zaqar, the multi-tenant message queue and notification service."""
