# SPDX-License-Identifier: Apache-2.0
"""The stores: two small contracts in :mod:`zaqar.storage.base` and the drivers that keep them."""
