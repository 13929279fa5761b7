# SPDX-License-Identifier: Apache-2.0
"""How one delivery is sent, for each scheme of a subscriber: entry points of ``zaqar.notification.tasks``."""
