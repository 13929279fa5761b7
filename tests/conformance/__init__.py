# SPDX-License-Identifier: Apache-2.0
"""The promises of a store, one module per promise or noun, run on every driver of :mod:`tests.conformance.drivers`."""
