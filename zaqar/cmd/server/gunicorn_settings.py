# SPDX-License-Identifier: Apache-2.0
"""What ``zaqar-server`` tells gunicorn, as ``gunicorn -c python:zaqar.cmd.server.gunicorn_settings``.

The names are those of gunicorn's own settings. Its command line and ``GUNICORN_CMD_ARGS`` win over them.
"""

worker_class = "zaqar.cmd.server.gunicorn_worker.BoundedWorker"

# Seconds. The wait for a request including its headers; a drain; a worker that a store blocks.
keepalive = 30
graceful_timeout = 8
timeout = 60

# 0: the worker takes as many as [transport] max_waiting_clients and max_streams need.
worker_connections = 0

# By default gunicorn believes SCRIPT_NAME, PATH_INFO and X-Forwarded-Proto in requests from this host, where a proxy
# may pass on what its clients send. With [oslo_middleware] enable_proxy_headers_parsing the service itself believes.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

loglevel = "warning"
control_socket_disable = True
proc_name = "zaqar-api"
