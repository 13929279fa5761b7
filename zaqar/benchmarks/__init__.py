# SPDX-License-Identifier: Apache-2.0
"""What ``zaqar-bench`` measures and how. It knows a server by its API only, so it measures any that speaks it."""
