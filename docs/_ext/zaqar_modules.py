# SPDX-License-Identifier: Apache-2.0
"""The Sphinx directive ``.. modules-of:: zaqar.storage``: a table of all modules below a package.

Each row has the name, as a link to the reference of the code, and the first sentence of the docstring. The files are
read and not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from zaqar_docs import table

ROOT = Path(__file__).parents[2]


def modules_below(package: str) -> Iterator[tuple[str, str]]:
    """Name and first sentence of each module, without the migrations, which alembic runs as scripts."""
    folder = ROOT.joinpath(*package.split("."))
    for path in sorted(folder.rglob("*.py")):
        if "migrations" in path.parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].split())
        if text:
            yield name, text


class ModulesOf(SphinxDirective):
    """The table. The argument is the full name of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = ((f":mod:`{name}`", text) for name, text in modules_below(self.arguments[0]))
        return self.parse_text_to_nodes("\n".join(table(("module", "what is in it"), rows)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("modules-of", ModulesOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
