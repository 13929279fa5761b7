# SPDX-License-Identifier: Apache-2.0
"""Limits that keep the code small: the path of a request, files, functions, and imports between parts."""
