# SPDX-License-Identifier: Apache-2.0
"""Takes deliveries from the message stores and sends them: the notifier, in a process of its own."""
