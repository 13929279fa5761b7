# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. Build with ``tox -e docs``; every warning is an error there."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# autodoc imports zaqar.wsgi, which reads the configuration and opens the stores. It must not use those of the user.
state_dir = TemporaryDirectory()
os.environ["ZAQAR_STATE_DIR"] = state_dir.name
os.environ["ZAQAR_CONFIG_FILE"] = os.devnull

project = "Zaqar"
author = "the Zaqar contributors"
copyright = "the Zaqar contributors, Apache-2.0"

extensions = [
    "oslo_config.sphinxext",
    "sphinx.ext.autodoc",
    "zaqar_docs",
    "zaqar_lua",
    "zaqar_metrics",
    "zaqar_modules",
    "zaqar_websocket",
]
root_doc = "index"
exclude_patterns = ["_build", "newsfragments"]
nitpicky = False

html_theme = "furo"
html_title = "Zaqar"
html_static_path = ["_static"]
html_css_files = ["zaqar.css"]
html_copy_source = False
html_show_sphinx = False
highlight_language = "none"

# -- the reference of the code -----------------------------------------------------------------------------------------

# zaqar_modules writes a page for each package into the folder "modules", which git ignores.

autodoc_default_options = {
    # Some modules list a name of another module in __all__, which is documented there.
    "ignore-module-all": True,
}
autodoc_member_order = "bysource"
# Each page copies the whole navigation, which would have each class and method: half of the time of a build.
toc_object_entries = False

# The page is the same without the libraries of the extras that are not installed here; only their classes have no text.
OPTIONAL = ("castellan", "cryptography", "granian", "hiredis", "keystoneauth1", "keystonemiddleware", "osprofiler")
OPTIONAL += ("psycopg", "psycopg_pool", "pymongo", "bson", "redis", "uwsgi", "uwsgidecorators", "webob")
autodoc_mock_imports = [name for name in OPTIONAL if find_spec(name) is None]

# An annotation that autodoc cannot resolve keeps its short name, which several classes may have. Such a name is shown
# without a link.
suppress_warnings = ["ref.python"]
