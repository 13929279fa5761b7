# SPDX-License-Identifier: Apache-2.0
"""The commands of the service: a module for each console script of ``setup.cfg``, and their common parts."""
