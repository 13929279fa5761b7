# SPDX-License-Identifier: Apache-2.0
"""Plug-ins in the form of OpenStack Zaqar's stages: objects with the methods of its storage controllers.

``adapters.py`` finds out which methods an object has, and wraps it in a stage. The other modules have the wrapper for
each resource: how a method is called, and how its result is converted.
"""
