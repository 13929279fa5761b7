# SPDX-License-Identifier: Apache-2.0
"""The service with stages: subclasses that run each operation through a pipeline.

``zaqar.app`` takes them only if a stage has a hook for the resource, so that nothing else pays for stages.
"""
