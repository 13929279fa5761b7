# SPDX-License-Identifier: Apache-2.0
"""The Sphinx directive ``.. lua-scripts::``: a section for each Lua script of the Redis driver, as a server runs it."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zaqar.storage.redis.client import scripts


class LuaScripts(SphinxDirective):
    """Title, digest and the assembled text of each script, in the order of their names."""

    def run(self) -> list[nodes.Node]:
        return [self._section(name) for name in scripts.names()]

    def _section(self, name: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(f"lua-{name}")])
        digest = scripts.load(name).sha.decode()
        text = scripts.assemble(name)
        section += nodes.title(text=name)
        section += nodes.paragraph("", "Digest ", nodes.literal(text=digest))
        section += nodes.literal_block(text, text, language="lua")
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("lua-scripts", LuaScripts)
    return {"parallel_read_safe": True}
