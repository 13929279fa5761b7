# SPDX-License-Identifier: Apache-2.0
"""What a stage may hook into, and how a pipeline of them is made."""

from collections.abc import Sequence
from typing import Self

from oslo_config import cfg

from zaqar.context import Context
from zaqar.errors import StartupError
from zaqar.model import Draft, Queue


class Stage:
    """A plug-in of group ``zaqar.storage.stages``: a class of no-op hooks; override those that matter.

    Hooks that a class does not override are not called.
    """

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Called once at start. Raises StartupError where it cannot work as configured."""
        return cls()

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """The drafts to store in place of these; raising a ClientError refuses the whole post."""
        return drafts

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        """The drafts are stored under these ids, in order."""


def check_stage(name: str, plugin: object, conf: cfg.ConfigOpts) -> Stage:
    """An instance of the plug-in; StartupError where it is not a stage."""
    if isinstance(plugin, type) and issubclass(plugin, Stage):
        return plugin.from_conf(conf)
    raise StartupError(f"[storage] message_pipeline: '{name}' is not a subclass of zaqar.stages.base.Stage")
