# SPDX-License-Identifier: Apache-2.0
"""The plug-in ``messagecode``: an example that accepts everything, as OpenStack Zaqar ships it."""


class MessageCode:
    def execute(self, value: str) -> None:
        """Accept the header. A plug-in that checks something raises :class:`zaqar.errors.Forbidden` here."""
