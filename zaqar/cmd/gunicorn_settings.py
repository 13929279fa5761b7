# SPDX-License-Identifier: Apache-2.0
"""What ``zaqar-server`` tells gunicorn, as ``gunicorn -c python:zaqar.cmd.gunicorn_settings``.

The names are those of gunicorn's own settings. Its command line and ``GUNICORN_CMD_ARGS`` win over them.
"""

worker_class = "zaqar.cmd.worker.BoundedWorker"

# Seconds. The wait for a request including its headers; a drain; a worker that a store blocks.
keepalive = 30
graceful_timeout = 8
timeout = 60

loglevel = "warning"
control_socket_disable = True
proc_name = "zaqar-api"
