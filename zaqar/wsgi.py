# SPDX-License-Identifier: Apache-2.0
"""``zaqar.wsgi:application``, for gunicorn, granian, uWSGI and mod_wsgi.

It is configured by the files and variables that :func:`zaqar.conf.load` names, as it has no command line of its own.
"""

from oslo_log import log

from zaqar import app, conf
from zaqar.transport.wsgi.app import make_app

_conf = conf.load()
log.setup(_conf, "zaqar")
application = make_app(app.build(_conf))
