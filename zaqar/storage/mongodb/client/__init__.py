# SPDX-License-Identifier: Apache-2.0
"""How the driver talks to a MongoDB replica set. Nothing here knows which documents the stores keep."""
