# SPDX-License-Identifier: Apache-2.0
"""What a stage may hook into, and how a pipeline of them is made."""

from collections.abc import Sequence

from zaqar.context import Context
from zaqar.errors import StartupError
from zaqar.model import Draft, Queue


class Stage:
    """A plug-in of group ``zaqar.storage.stages``: a class of no-op hooks; override those that matter."""

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """The drafts to store in place of these; raising a ClientError refuses the whole post."""
        return drafts

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        """The drafts are stored under these ids, in order."""


def check_stage(name: str, plugin: object) -> Stage:
    """An instance of the plug-in; StartupError where it is not a stage."""
    if isinstance(plugin, type) and issubclass(plugin, Stage):
        return plugin()
    raise StartupError(f"[storage] message_pipeline: '{name}' is not a subclass of zaqar.stages.base.Stage")
