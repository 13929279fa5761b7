# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. Build with ``tox -e docs``; every warning is an error there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Zaqar"
author = "the Zaqar contributors"
copyright = "the Zaqar contributors, Apache-2.0"

extensions = ["oslo_config.sphinxext", "zaqar_docs", "zaqar_lua", "zaqar_metrics", "zaqar_websocket"]
root_doc = "index"
exclude_patterns = ["_build", "newsfragments"]
nitpicky = False

html_theme = "furo"
html_title = "Zaqar"
html_copy_source = False
html_show_sphinx = False
highlight_language = "none"
