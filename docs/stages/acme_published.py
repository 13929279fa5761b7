# SPDX-License-Identifier: Apache-2.0
"""A stage in the shape that OpenStack Zaqar has: it needs nothing of this service."""


class Kept:
    """For ``queue_pipeline``: the queue ``kept`` is never deleted; the client is told that it was."""

    def __init__(self, *args, **kwargs):
        print("the stage is there")

    def create(self, name, metadata=None, project=None):
        print(f"{name} is created")

    def delete(self, name, project=None):
        if name == "kept":
            return "not deleted"
        return None
