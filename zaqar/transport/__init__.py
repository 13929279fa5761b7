# SPDX-License-Identifier: Apache-2.0
"""Transports translate between a protocol and the service layer, which decides."""
