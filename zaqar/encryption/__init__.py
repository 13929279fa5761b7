# SPDX-License-Identifier: Apache-2.0
"""Encryption of message bodies: ``keys`` reads the keys, ``messages`` encrypts and decrypts bodies."""
