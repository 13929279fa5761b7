# SPDX-License-Identifier: Apache-2.0
"""The settings of gunicorn under ``zaqar-server``, read by ``gunicorn -c python:zaqar.cmd.server.gunicorn_settings``.

gunicorn's documentation explains the names. Its command line and ``GUNICORN_CMD_ARGS`` override these values.
"""

worker_class = "zaqar.cmd.server.gunicorn_worker.BoundedWorker"

# Seconds. keepalive: the wait for a request including its headers. graceful_timeout: a drain. timeout: a worker that a
# store blocks.
keepalive = 30
graceful_timeout = 8
timeout = 60

# 0: BoundedWorker takes as many as [transport] max_waiting_clients and max_streams need.
worker_connections = 0

# By default gunicorn believes SCRIPT_NAME, PATH_INFO and X-Forwarded-Proto in requests from this host. A proxy on this
# host may pass on such headers from its clients, so gunicorn must not. With [oslo_middleware]
# enable_proxy_headers_parsing the service itself reads the headers of the proxy.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

loglevel = "warning"
control_socket_disable = True
proc_name = "zaqar-api"
