# SPDX-License-Identifier: Apache-2.0
"""Encryption of message bodies: the keys, and how a stored body is made and read."""
