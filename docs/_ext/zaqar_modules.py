# SPDX-License-Identifier: Apache-2.0
"""The reference of the code: a page for each package, with the docstrings of its modules, and tables of modules.

Before a build this extension writes the pages, for sphinx.ext.autodoc, into ``docs/modules``, which git ignores. The
directive ``.. modules-of:: zaqar.storage`` makes a table of all modules below a package, with links to these pages and
the first sentence of each docstring. A page for each module would be 400 pages, each with the navigation of all.
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
PAGES = "modules"

LEFT_OUT = ("migrations", "__main__.py")
"""Scripts: alembic runs the migrations, and Python the other."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if not set(LEFT_OUT) & set(path.parts)]


def sentence_of(path: Path) -> str:
    """The first paragraph of the docstring of a module, which is read and not imported."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].split())


# -- pages -------------------------------------------------------------------------------------------------------------


def page_of(package: Path) -> str:
    """A package, the packages in it, and a section for each of its modules."""
    name = name_of(package / "__init__.py")
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", "   :show-inheritance:", ""]
    inner = [path.parent for path in sorted(package.glob("*/__init__.py")) if path.parent.name not in LEFT_OUT]
    if inner:
        lines += [".. toctree::", "   :hidden:", ""]
        lines += [f"   {each.name} <{name}.{each.name}>" for each in inner]
        rows = [(f":mod:`{each.name} <{name}.{each.name}>`", sentence_of(each / "__init__.py")) for each in inner]
        lines += ["", "Packages", "--------", "", *table(("package", "what is in it"), rows)]
    for path in files_below(package):
        if path.parent == package and path.name != "__init__.py":
            lines += [path.stem.replace("_", "\\_"), "-" * (len(path.stem) + 9), ""]
            lines += [f".. automodule:: {name}.{path.stem}", "   :members:", "   :show-inheritance:", ""]
    return "\n".join(lines)


def write_pages(app: Sphinx) -> None:
    """Write the pages that have changed, so that a second build reads only those, and remove those of old packages."""
    folder = Path(app.srcdir) / PAGES
    folder.mkdir(exist_ok=True)
    packages = [path.parent for path in files_below(ROOT / "zaqar") if path.name == "__init__.py"]
    wanted = {folder / f"{name_of(package / '__init__.py')}.rst": page_of(package) for package in packages}
    for path in folder.glob("*.rst"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# -- tables ------------------------------------------------------------------------------------------------------------


def modules_below(package: str) -> Iterator[tuple[str, str]]:
    """Name and first sentence of each module."""
    for path in files_below(ROOT.joinpath(*package.split("."))):
        if text := sentence_of(path):
            yield name_of(path), text


class ModulesOf(SphinxDirective):
    """The table. The argument is the full name of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        # Names without the package are short enough for the screen of a phone.
        start = len(package) + 1
        last = package.rpartition(".")[2]
        rows = ((f":mod:`{name[start:] or last} <{name}>`", text) for name, text in modules_below(package))
        return self.parse_text_to_nodes("\n".join(table(("module", "what is in it"), rows)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.add_directive("modules-of", ModulesOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
