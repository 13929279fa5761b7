# SPDX-License-Identifier: Apache-2.0
"""The parts of the service with stages: subclasses that run each operation through a pipeline.

``pipelines.py`` uses such a class only if a stage has a hook for its resource. Without stages they take no time.
"""
