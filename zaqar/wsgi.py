# SPDX-License-Identifier: Apache-2.0
"""``zaqar.wsgi:application``, for gunicorn, granian, uWSGI and mod_wsgi.

The module reads the configuration from the files and variables that :func:`zaqar.conf.load` names, because it has no
command line of its own.
"""

import sys

from zaqar import app, conf
from zaqar.app import Parts
from zaqar.errors import StartupError
from zaqar.logs import setup as logs
from zaqar.transport.wsgi.app import WsgiApplication, make_app
from zaqar.transport.wsgi.waits import WaitSlots

_FAILED_APP = 22 if "uwsgi" in sys.modules else 4
"""Exit status of a worker that cannot start. It makes the master of uWSGI or gunicorn end instead of restarting it."""


def _make_application() -> tuple[WsgiApplication, Parts]:
    try:
        loaded = conf.load()
        logs.set_up(loaded, "api")
        parts = app.build(loaded)
        made = make_app(parts, WaitSlots.of_server())
    except StartupError as exc:
        print(f"zaqar.wsgi: {exc}", file=sys.stderr, flush=True)
        sys.exit(_FAILED_APP)
    if parts.tokens is not None:
        parts.tokens.check_in_background()
    return made, parts


application, parts = _make_application()
