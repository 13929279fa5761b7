# SPDX-License-Identifier: Apache-2.0
"""Both stores on a MongoDB replica set.

``store`` and ``management`` have the parts of the contract, one module each. ``documents`` says how messages are stored
and why that is safe. ``client`` is how the driver talks to the server.
"""
