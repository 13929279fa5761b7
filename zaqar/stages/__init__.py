# SPDX-License-Identifier: Apache-2.0
"""Stages: plug-ins with hooks before and after each operation of the API."""
