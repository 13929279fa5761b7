# SPDX-License-Identifier: Apache-2.0
"""Stages: plug-ins that see each operation on its way to the store."""
