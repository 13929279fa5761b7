# SPDX-License-Identifier: Apache-2.0
"""The table of actions, one module for each noun."""
