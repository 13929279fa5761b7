# SPDX-License-Identifier: Apache-2.0
"""A complaint about a setting, and the object that each check gets. All modules of this package use them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from oslo_config import cfg


class Complaint(NamedTuple):
    """One sentence about one option."""

    option: str
    """In the form ``[group] option``."""
    sentence: str
    is_error: bool = False
    """Whether the service does not start, or serves no request, with this setting. Otherwise it is a warning."""

    def __str__(self) -> str:
        return f"{self.option}: {self.sentence}"

    @classmethod
    def of(cls, error: Exception, option: str) -> Self:
        """The complaint of an error that would stop the start. ``option`` counts if the error names none."""
        text = " ".join(str(error).split())
        named = re.fullmatch(r"(\[[^\]]+\] [^:]+): (.*)", text)
        return cls(named[1], named[2], is_error=True) if named else cls(option, text, is_error=True)


class Setting(NamedTuple):
    """A line of a configuration file, or several lines of one option. Its value is not kept: it may be secret."""

    path: Path
    group: str
    option: str

    def __str__(self) -> str:
        return f"[{self.group}] {self.option}"


@dataclass(frozen=True, slots=True)
class Examined:
    """The configuration that is checked."""

    conf: cfg.ConfigOpts
    settings: Sequence[Setting] = ()
    """All settings of all files, in the order in which they are read."""

    def value(self, group: str, option: str) -> Any:
        """The value of an option; None if no part of the service has registered the option."""
        try:
            return self.conf[option] if group == "DEFAULT" else self.conf[group][option]
        except (cfg.NoSuchOptError, cfg.NoSuchGroupError):
            return None

    def has(self, group: str, option: str) -> bool:
        """Whether a file sets the option."""
        return any((setting.group, setting.option) == (group, option) for setting in self.settings)

    def is_set(self, group: str, option: str) -> bool:
        """Whether the option has a value that is not its default."""
        location = self.conf.get_location(option, None if group == "DEFAULT" else group)
        is_default = location is None or location.location in (cfg.Locations.opt_default, cfg.Locations.set_default)
        return not is_default and self.value(group, option) not in (None, "")
