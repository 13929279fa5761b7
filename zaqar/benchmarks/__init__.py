# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench``: measures servers from outside, by their API only. So it can measure any server with that API.

:mod:`zaqar.benchmarks.main` is the command; the service imports nothing from here.
"""
