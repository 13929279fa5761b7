# SPDX-License-Identifier: Apache-2.0
"""Plug-ins in the shape that OpenStack Zaqar's stages have: objects with the methods of its storage controllers.

``adapters.py`` finds out which methods an object has and makes one of our stages of it. The modules beside it say, for
each resource, how a method is called and what its result comes to.
"""
