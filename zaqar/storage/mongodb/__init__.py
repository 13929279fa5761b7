# SPDX-License-Identifier: Apache-2.0
"""Both stores on a MongoDB replica set.

``documents`` says how things are stored and why that is safe, ``connection`` and ``transactions`` how they get there.
"""
